package fdtable

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// captureTimerFD records clock, time left and unread expirations (fs/timerfd.c, timerfd_show).
func captureTimerFD(c *capturer, d *desc) error {
	info, err := c.ownInfo(d)
	if err != nil {
		return err
	}
	t := &image.TimerFD{Clock: -1}
	for _, l := range info.Lines {
		if err := timerLine(t, l); err != nil {
			return d.unknownLine(l)
		}
	}
	if t.Clock < 0 {
		return d.refuse(fault.FDInfo, "its fdinfo does not tell the clock")
	}
	d.TimerFD = t
	return nil
}

func timerLine(t *image.TimerFD, l procfs.Line) (err error) {
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
func openTimerFD(b *builder, f *image.File) (int, error) {
	t := f.TimerFD
	if t == nil {
		return -1, fault.New(fault.FDRecord, fileObject(f), "a timerfd without a timer")
	}
	fd, err := unix.TimerfdCreate(t.Clock, unix.TFD_CLOEXEC)
	if err != nil {
		return -1, fault.New(fault.FDRebuild, fileObject(f), "make it: %w", err)
	}
	if fd, err = b.checkFlags(f, fd); err != nil {
		return -1, err
	}
	realtime := b.st.Kernel.Realtime
	b.table.late = append(b.table.late, func() error { return startTimer(f, fd, realtime) })
	return fd, nil
}

// startTimer arms the timer with the time that was left. A deadline on the wall clock stays where it was.
func startTimer(f *image.File, fd int, realtime int64) error {
	t := f.TimerFD
	flags, value := 0, t.Left
	wall := t.Clock == unix.CLOCK_REALTIME || t.Clock == unix.CLOCK_REALTIME_ALARM
	if wall && t.Flags&unix.TFD_TIMER_ABSTIME != 0 && value != 0 {
		flags, value = t.Flags, realtime+t.Left
	}
	spec := unix.ItimerSpec{Interval: unix.NsecToTimespec(t.Interval), Value: unix.NsecToTimespec(value)}
	if err := unix.TimerfdSettime(fd, flags, &spec, nil); err != nil {
		return fault.New(fault.FDRebuild, fileObject(f), "start the timer: %w", err)
	}
	if t.Ticks == 0 {
		return nil
	}
	if err := setTicks(fd, t.Ticks); err != nil {
		return fault.New(fault.FDRebuild, fileObject(f), "set its %d unread expirations: %w", t.Ticks, err)
	}
	return nil
}
