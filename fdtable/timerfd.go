package fdtable

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

const kindTimerFD = "timerfd"

var _ = register(kind{
	name: kindTimerFD, links: []string{"anon_inode:[timerfd]"}, capture: captureTimerFD, open: openTimerFD,
})

// captureTimerFD records clock, time left and unread expirations (fs/timerfd.c, timerfd_show).
func captureTimerFD(c *capturer, d *desc) error {
	t, err := c.timer(d)
	if err == nil && t.Left == 0 && t.Ticks == 0 {
		// Disarmed, or due while the kernel is about to count it on another processor: then the second look finds it
		// counted.
		t, err = c.timer(d)
	}
	if err == nil && ranOut(t) && d.Expiry == 0 { // the source cannot tell since when
		t, err = c.counted(d)
	}
	if err != nil {
		return err
	}
	now, err := c.in.View.Time.Clocks()
	if err != nil {
		return err
	}
	if ranOut(t) {
		t.Expired = 1 // at the latest now
		if d.Expiry != 0 {
			t.Expired = max(now.Monotonic-d.Expiry, 1)
		}
	}
	if k := &c.st.Kernel; t.Flags&unix.TFD_TIMER_ABSTIME != 0 && k.Monotonic != 0 {
		// A date is counted from the moment of the freeze, which is a little ago.
		gone := now.Monotonic - k.Monotonic
		if t.Left != 0 {
			t.Left += gone
		}
		if t.Expired != 0 {
			t.Expired = max(t.Expired-gone, 1)
		}
	}
	d.Of = t
	return nil
}

// ranOut says whether a periodic timer stands still since it ran out: fdinfo counts the first period only, the others
// are counted when somebody looks (timerfd_gettime(2), read(2)).
func ranOut(t *model.TimerFD) bool { return t.Ticks != 0 && t.Interval != 0 && t.Left == 0 }

// counted looks at a timer that ran out, for the kernel to count its periods, and reads its fdinfo then. To the program
// it is all the same: it reads as many as it would have read.
func (c *capturer) counted(d *desc) (*model.TimerFD, error) {
	fd, err := c.dup(d)
	if err != nil {
		return nil, err
	}
	var spec unix.ItimerSpec
	if err := errors.Join(unix.TimerfdGettime(fd, &spec), unix.Close(fd)); err != nil {
		return nil, d.refuse(fault.FDRead, "look at the timer: %w", err)
	}
	return c.timer(d)
}

// timer reads the fdinfo of a timerfd.
func (c *capturer) timer(d *desc) (*model.TimerFD, error) {
	info, err := c.ownInfo(d)
	if err != nil {
		return nil, err
	}
	t := &model.TimerFD{Clock: -1}
	for _, l := range info.Lines {
		if err := timerLine(t, l); err != nil {
			return nil, d.unknownLine(l)
		}
	}
	if t.Clock < 0 {
		return nil, d.refuse(fault.FDInfo, "its fdinfo does not tell the clock")
	}
	return t, nil
}

func timerLine(t *model.TimerFD, l procfs.Line) (err error) {
	switch l.Key {
	case "clockid":
		t.Clock, err = strconv.Atoi(l.Value)
	case "ticks":
		t.Ticks, err = strconv.ParseUint(l.Value, 10, 64)
	case "settime flags":
		var flags int64
		flags, err = strconv.ParseInt(l.Value, 8, 32)
		t.Flags = int(flags)
	case "it_value":
		t.Left, err = seconds(l.Value)
	case "it_interval":
		t.Interval, err = seconds(l.Value)
	default:
		err = fmt.Errorf("unknown key %q", l.Key)
	}
	return err
}

// seconds parses "(1, 500000000)".
func seconds(s string) (int64, error) {
	sec, nsec, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(s, "("), ")"), ", ")
	if !ok {
		return 0, fmt.Errorf("%q is no time", s)
	}
	a, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return 0, err
	}
	b, err := strconv.ParseInt(nsec, 10, 64)
	return a*1e9 + b, err
}

// openTimerFD makes the timer. Commit starts it, so that the time the restore takes is not counted.
func openTimerFD(b *builder, f *model.File) (int, error) {
	t, ok := f.Of.(*model.TimerFD)
	if !ok {
		return -1, fault.New(fault.FDRecord, fileObject(f), "a timerfd without a timer")
	}
	fd, err := unix.TimerfdCreate(t.Clock, unix.TFD_CLOEXEC)
	if err != nil {
		return -1, fault.New(fault.FDRebuild, fileObject(f), "make it: %w", err)
	}
	if fd, err = b.checkFlags(f, fd); err != nil {
		return -1, err
	}
	b.table.late = append(b.table.late, func() error {
		if err := startTimer(fd, t, b.moment(t.Clock)); err != nil {
			return fault.New(fault.FDRebuild, fileObject(f), "start the timer: %w", err)
		}
		return nil
	})
	return fd, nil
}

// startTimer arms the timer with the time that was left and sets the unread expirations. One that had run out goes on
// with the period it was in, as if it had just been looked at (timerfd_gettime(2)). A date stays where it was; moment
// is what the clock of the timer, as it is here, showed at the freeze, in ns.
func startTimer(fd int, t *model.TimerFD, moment int64) error {
	expired := t.Expired
	if expired == 0 && t.Ticks != 0 && t.Interval != 0 && t.Left == 0 {
		expired = 1 // an image from before there was the field
	}
	if t.Flags&unix.TFD_TIMER_ABSTIME != 0 {
		return startDated(fd, t, moment, expired)
	}
	left, ticks := t.Left, t.Ticks
	if expired != 0 {
		left, ticks = t.Interval-expired%t.Interval, ticks+uint64(expired/t.Interval)
	}
	start := time.Now()
	if err := arm(fd, 0, left, t.Interval); err != nil || ticks == 0 {
		return err
	}
	if err := setTicks(fd, ticks); err != nil || left == 0 || time.Since(start).Nanoseconds() < left {
		return err
	}
	// It may have run out before the ticks were set or after. Then it does so here, where that is known.
	return errors.Join(arm(fd, 0, 1, t.Interval), awaitExpiry(fd), setTicks(fd, ticks+1))
}

// startDated arms a timer whose time is a date, with which periods are counted also while nothing runs.
func startDated(fd int, t *model.TimerFD, moment, expired int64) error {
	at, ticks := moment+t.Left, t.Ticks
	switch {
	case expired != 0:
		at = moment - expired
	case t.Left == 0:
		at = 0 // disarmed, but a clock that is set may still be to cancel it
	}
	if at != 0 {
		at = max(at, 1) // a clock that began anew has not seen it
	}
	if err := arm(fd, t.Flags, at, t.Interval); err != nil || ticks == 0 {
		return err
	}
	if err := setTicks(fd, ticks); err != nil || at == 0 {
		return err
	}
	if now, err := readClock(t.Clock); err != nil || expired == 0 && now < at {
		return err
	}
	if expired == 0 {
		ticks++ // it has run out since
	}
	return errors.Join(arm(fd, t.Flags, at, t.Interval), awaitExpiry(fd), setTicks(fd, ticks))
}

// readClock reads the clock of a timerfd, in ns. A clock that wakes the machine is read as the one that it follows.
func readClock(clock int) (int64, error) {
	switch clock {
	case unix.CLOCK_REALTIME_ALARM:
		clock = unix.CLOCK_REALTIME
	case unix.CLOCK_BOOTTIME_ALARM:
		clock = unix.CLOCK_BOOTTIME
	}
	var ts unix.Timespec
	err := unix.ClockGettime(int32(clock), &ts)
	return ts.Nano(), err
}

// moment is what a clock, as this process reads it, showed at the freeze, in ns.
func (b *builder) moment(clock int) int64 {
	if b.o.Moment != nil {
		return b.o.Moment(clock)
	}
	k := &b.st.Kernel
	switch clock {
	case unix.CLOCK_MONOTONIC:
		return k.Monotonic
	case unix.CLOCK_BOOTTIME, unix.CLOCK_BOOTTIME_ALARM:
		return k.Boottime
	}
	return k.Realtime
}

// arm sets a timer, whose unread expirations are none then.
func arm(fd, flags int, value, interval int64) error {
	spec := unix.ItimerSpec{Interval: unix.NsecToTimespec(interval), Value: unix.NsecToTimespec(value)}
	return unix.TimerfdSettime(fd, flags, &spec, nil)
}

// expiryTimeout is how long a timer that is set to a time gone by may take to fire. It does so with the next interrupt.
const expiryTimeout = 10 * time.Second

// awaitExpiry waits until a timer that has run out has been counted.
func awaitExpiry(fd int) error {
	for end := time.Now().Add(expiryTimeout); ; {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(time.Until(end).Milliseconds()))
		switch {
		case n == 1:
			return nil
		case err != nil && err != unix.EINTR:
			return fmt.Errorf("wait for it: %w", err)
		case time.Now().After(end):
			return fmt.Errorf("it has not run out after %v", expiryTimeout)
		}
	}
}
