package tracer

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// Which CPU time a CPU clock counts: the low bits of a dynamic clock id (include/linux/posix-timers_types.h).
const (
	cpuclockProf = iota
	cpuclockVirt
	cpuclockSched
	cpuclockPerThread = 4

	sigevThreadID = 4 // SIGEV_THREAD_ID, include/uapi/asm-generic/siginfo.h
	sigevNone     = 1 // SIGEV_NONE
)

// timers builds the interval timers and the POSIX timers with the time left on them.
func (b *builder) timers(raw *rawProcess, p *model.Process) error {
	r := raw.process
	if r.RealArmed != 0 || r.RealInterval != 0 {
		p.ITimers[0].Interval = int64(r.RealInterval)
		p.ITimers[0].Value = left(int64(r.RealExpires), b.now[unix.CLOCK_MONOTONIC], int64(r.RealInterval))
	}
	for i, which := range []int32{cpuclockVirt, cpuclockProf} { // ITIMER_VIRTUAL, ITIMER_PROF
		if t := r.It[which]; t.Expires != 0 {
			p.ITimers[i+1] = model.ITimer{
				Value:    left(int64(t.Expires), groupClock(r, which), int64(t.Incr)),
				Interval: int64(t.Incr),
			}
		}
	}
	for i := range raw.timers {
		p.Timers = append(p.Timers, b.timer(raw, &raw.timers[i]))
	}
	slices.SortFunc(p.Timers, func(a, b model.PosixTimer) int { return cmp.Compare(a.ID, b.ID) })
	return nil
}

func (b *builder) timer(raw *rawProcess, r *bpf.IterTimerRec) model.PosixTimer {
	t := model.PosixTimer{
		ID: int(r.Id), Clock: int(r.Clock), Notify: int(r.Notify), Signo: int(r.Signo), Value: r.Value,
		Interval: int64(r.Interval), Overrun: int(r.Overrun),
	}
	if r.Notify&sigevThreadID != 0 {
		t.Tid = int(r.Target)
	}
	if r.Armed == 0 && r.Interval == 0 && (r.Notify != sigevNone || r.Expires == 0) {
		return t
	}
	now, ok := b.timerNow(raw, r)
	switch {
	case !ok:
		b.block(fault.ProcessState, pidName(raw.pid), "timer %d counts on clock %d, which belongs to another process",
			t.ID, t.Clock)
	case r.Notify == sigevNone && r.Interval == 0 && int64(r.Expires) <= now:
		// It ran out, and no one is told.
	default:
		t.Left = left(int64(r.Expires), now, t.Interval)
		// a relative one is on CLOCK_MONOTONIC (common_hrtimer_arm)
		dated := r.Clock == unix.CLOCK_REALTIME && r.BaseClock == unix.CLOCK_REALTIME
		if dated {
			t.Date = now + t.Left
		}
		if r.Armed == 0 && t.Notify != sigevNone && t.Interval != 0 {
			t.Expired = max(now-int64(r.Expires), 1)
			if dated {
				t.Date = int64(r.Expires)
			}
		}
	}
	return t
}

// timerNow reads the clock of a timer, on the scale of its expiry.
func (b *builder) timerNow(raw *rawProcess, r *bpf.IterTimerRec) (int64, bool) {
	if now, ok := b.now[r.BaseClock]; ok {
		return now, true
	}
	which, perThread := r.Clock&3, r.Clock&cpuclockPerThread != 0
	if r.Clock >= 0 {
		which, perThread = cpuclockSched, r.Clock == unix.CLOCK_THREAD_CPUTIME_ID
	}
	if !perThread {
		return groupClock(raw.process, which), int(r.CpuPid) == raw.pid
	}
	for i := range raw.threads {
		if t := &raw.threads[i]; t.Tid == r.CpuPid {
			return threadClock(t, which), true
		}
	}
	return 0, false
}

// groupClock is the CPU time of a thread group as its CPU timers count it.
func groupClock(r *bpf.IterProcessRec, which int32) int64 {
	switch which {
	case cpuclockProf:
		return int64(r.CpuUtime + r.CpuStime)
	case cpuclockVirt:
		return int64(r.CpuUtime)
	}
	return int64(r.CpuRuntime)
}

func threadClock(t *bpf.IterThreadRec, which int32) int64 {
	switch which {
	case cpuclockProf:
		return int64(t.Usage.Utime + t.Usage.Stime)
	case cpuclockVirt:
		return int64(t.Usage.Utime)
	}
	return int64(t.Runtime)
}
