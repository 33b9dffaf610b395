package restore

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procid"
	"github.com/bpfckpt/bpfckpt/internal/timens"
)

// setClocks gives the tree a time namespace if CLOCK_MONOTONIC and CLOCK_BOOTTIME would otherwise run backwards or jump
// for it: after a reboot, on another machine, or if it had one before. A program may have stored points in time of
// these clocks, as deadlines for example. On the same boot, in the time namespace that we are in ourselves, nothing is
// needed: the clocks have gone on.
func (r *restorer) setClocks() error {
	offsets, err := r.clockOffsets()
	if err != nil {
		return err
	}
	own, err := timens.Of(os.Getpid())
	if err != nil || offsets == own {
		return err
	}
	s := r.stub
	if _, err := s.call("make a time namespace", unix.SYS_UNSHARE, unix.CLONE_NEWTIME); err != nil {
		return fault.New(fault.RestoreState, "time namespace",
			"the image is from another boot, whose clocks were elsewhere: %w", err)
	}
	if err := offsets.Set(s.pid); err != nil {
		return fault.New(fault.RestoreState, "time namespace", "%w", err)
	}
	r.shift = timens.Offsets{Monotonic: offsets.Monotonic - own.Monotonic, Boottime: offsets.Boottime - own.Boottime}
	return nil
}

// shiftOf is what the tree's clock is ahead of ours, ns.
func (r *restorer) shiftOf(clock int32) int64 {
	switch clock {
	case unix.CLOCK_MONOTONIC, unix.CLOCK_MONOTONIC_RAW, unix.CLOCK_MONOTONIC_COARSE:
		return r.shift.Monotonic
	case unix.CLOCK_BOOTTIME, unix.CLOCK_BOOTTIME_ALARM:
		return r.shift.Boottime
	}
	return 0
}

// moment is what a clock, as we read it, showed at the freeze, in ns. It is known once setClocks has been called: to
// the tree its clocks go on from there.
func (r *restorer) moment(clock int) int64 {
	k := &r.st.Kernel
	switch clock {
	case unix.CLOCK_MONOTONIC:
		return k.Monotonic + k.MonotonicOffset - r.shift.Monotonic
	case unix.CLOCK_BOOTTIME, unix.CLOCK_BOOTTIME_ALARM:
		return k.Boottime + k.BoottimeOffset - r.shift.Boottime
	}
	return k.Realtime
}

// clockOffsets returns the offsets the tree needs to see its clocks go on.
func (r *restorer) clockOffsets() (timens.Offsets, error) {
	k := &r.st.Kernel
	had := timens.Offsets{Monotonic: k.MonotonicOffset, Boottime: k.BoottimeOffset}
	boot, err := procid.Boot()
	if err != nil {
		return had, err
	}
	if boot == k.BootID {
		return had, nil
	}
	now, err := timens.Now()
	return timens.Offsets{
		Monotonic: k.Monotonic + had.Monotonic - now.Monotonic,
		Boottime:  k.Boottime + had.Boottime - now.Boottime,
	}, err
}
