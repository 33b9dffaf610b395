package restore

import (
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/timens"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// clocks are those of the tree, which go on as if it had never stopped.
type clocks struct {
	view   *view.View
	kernel *model.Kernel  // what they showed at the freeze
	shift  timens.Offsets // what the tree's are ahead of ours, known since set
}

// set gives the tree a time namespace if CLOCK_MONOTONIC and CLOCK_BOOTTIME would otherwise run backwards or jump
// for it: after a reboot, on another machine, or if it had one before. A program may have stored points in time of
// these clocks, as deadlines for example. On the same boot, in the time namespace that we are in ourselves, nothing is
// needed: the clocks have gone on. The namespace is made in s, for the processes that it will make.
func (c *clocks) set(s *process) error {
	offsets, err := c.offsets()
	if err != nil {
		return err
	}
	own := c.view.Time
	if offsets == own {
		return nil
	}
	if _, err := s.call("make a time namespace", unix.SYS_UNSHARE, unix.CLONE_NEWTIME); err != nil {
		return fault.New(fault.RestoreState, "time namespace",
			"the image is from another boot, whose clocks were elsewhere: %w", err)
	}
	if err := offsets.Set(s.pid); err != nil {
		return fault.New(fault.RestoreState, "time namespace", "%w", err)
	}
	c.shift = timens.Offsets{Monotonic: offsets.Monotonic - own.Monotonic, Boottime: offsets.Boottime - own.Boottime}
	return nil
}

// shiftOf is what the tree's clock is ahead of ours, ns.
func (c *clocks) shiftOf(clock int32) int64 {
	switch clock {
	case unix.CLOCK_MONOTONIC, unix.CLOCK_MONOTONIC_RAW, unix.CLOCK_MONOTONIC_COARSE:
		return c.shift.Monotonic
	case unix.CLOCK_BOOTTIME, unix.CLOCK_BOOTTIME_ALARM:
		return c.shift.Boottime
	}
	return 0
}

// moment is what a clock, as we read it, showed at the freeze, in ns. It is known once set has been called: to
// the tree its clocks go on from there.
func (c *clocks) moment(clock int) int64 {
	k := c.kernel
	switch clock {
	case unix.CLOCK_MONOTONIC:
		return k.Monotonic + k.MonotonicOffset - c.shift.Monotonic
	case unix.CLOCK_BOOTTIME, unix.CLOCK_BOOTTIME_ALARM:
		return k.Boottime + k.BoottimeOffset - c.shift.Boottime
	}
	return k.Realtime
}

// offsets returns the offsets the tree needs to see its clocks go on.
func (c *clocks) offsets() (timens.Offsets, error) {
	k := c.kernel
	had := timens.Offsets{Monotonic: k.MonotonicOffset, Boottime: k.BoottimeOffset}
	boot, err := c.view.Boot()
	if err != nil {
		return had, err
	}
	if boot == k.BootID {
		return had, nil
	}
	now, err := c.view.Time.Clocks()
	return timens.Offsets{
		Monotonic: k.Monotonic + had.Monotonic - now.Monotonic,
		Boottime:  k.Boottime + had.Boottime - now.Boottime,
	}, err
}

// now reads CLOCK_MONOTONIC, or CLOCK_REALTIME, as the tree sees it.
func (c *clocks) now(realtime bool) (int64, error) {
	clock := int32(unix.CLOCK_MONOTONIC)
	if realtime {
		clock = unix.CLOCK_REALTIME
	}
	var ts unix.Timespec
	err := unix.ClockGettime(clock, &ts)
	return ts.Nano() + c.shiftOf(clock), err
}
