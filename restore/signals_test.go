package restore

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
)

func siginfo(sig unix.Signal, code int32, timer uint32) model.SigInfo {
	info := make(model.SigInfo, 128)
	binary.LittleEndian.PutUint32(info, uint32(sig))
	binary.LittleEndian.PutUint32(info[8:], uint32(code))
	binary.LittleEndian.PutUint32(info[16:], timer)
	return info
}

// What the making of children queues for their parent is taken back: a standard signal once, a real-time one each time.
func TestChildSignals(t *testing.T) {
	const parent = 7
	child := func(change func(*model.Process)) model.Process {
		p := model.Process{Pid: 8, PPid: parent, ExitSignal: int(unix.SIGCHLD)}
		change(&p)
		return p
	}
	zombie := func(sig int) model.Process {
		return child(func(p *model.Process) { p.Zombie, p.ExitSignal = true, sig })
	}
	list := []model.Process{
		zombie(10), zombie(34), zombie(10), zombie(34), zombie(0),
		child(func(p *model.Process) {}),
		child(func(p *model.Process) { p.Stopped = int(unix.SIGTSTP) }),
		child(func(p *model.Process) { p.Continued = true }),
		child(func(p *model.Process) { p.PPid, p.Zombie = 9, true }),
	}
	want := []unix.Signal{10, 34, 34, unix.SIGCHLD}
	if have := childSignals(list, parent, false); !slices.Equal(have, want) {
		t.Errorf("%v, want %v", have, want)
	}
	if have := childSignals(list[5:6], parent, false); len(have) > 0 {
		t.Errorf("a child that runs: %v", have)
	}
	if have := childSignals(list[5:6], parent, true); !slices.Equal(have, []unix.Signal{unix.SIGCHLD}) {
		t.Errorf("a child that is left stopped: %v", have)
	}
}

// A process stops by the signal that had stopped it, unless it would be handled.
func TestStopSignal(t *testing.T) {
	handled := []model.SigAction{{Signal: int(unix.SIGTSTP), Handler: 0x1000}}
	for _, c := range []struct {
		was     unix.Signal
		actions []model.SigAction
		stopped bool
		want    unix.Signal
	}{
		{0, nil, false, 0},
		{0, nil, true, unix.SIGSTOP},
		{0, handled, true, unix.SIGSTOP},
		{unix.SIGTSTP, nil, false, unix.SIGTSTP},
		{unix.SIGTTIN, handled, true, unix.SIGTTIN},
		{unix.SIGTSTP, handled, false, unix.SIGSTOP},
		{unix.SIGTRAP, nil, false, unix.SIGSTOP},
	} {
		rec := &model.Process{Stopped: int(c.was), Actions: c.actions}
		if have := stopSignal(rec, c.stopped); have != c.want {
			t.Errorf("%+v: %v", c, have)
		}
	}
}

// What comes by another way is not queued: SIGTRAP and SIGSTOP at the end, the signal of a timer from the timer.
func TestQueuedSignals(t *testing.T) {
	const fromTimer = -2 // SI_TIMER
	rec := &model.Process{Timers: []model.PosixTimer{{ID: 3, Expired: 5}, {ID: 4}}}
	for _, c := range []struct {
		info model.SigInfo
		want bool
	}{
		{siginfo(unix.SIGUSR1, 0, 0), true},
		{siginfo(unix.SIGTRAP, 0, 0), false},
		{siginfo(unix.SIGSTOP, 0, 0), false},
		{siginfo(34, fromTimer, 3), false},
		{siginfo(34, fromTimer, 4), true},
	} {
		if have := queues(rec, c.info); have != c.want {
			t.Errorf("signal %d of timer %d: %t", signalOf(c.info), c.info[16], have)
		}
	}
}

// Timers of a clock that is ahead run out at its time; those with a date go on from the freeze.
func TestTimerNow(t *testing.T) {
	s := &timers{clocks: &clocks{kernel: &model.Kernel{}}}
	s.clocks.shift.Monotonic = 1e18
	for _, c := range []struct {
		name     string
		t        model.PosixTimer
		min, max int64
	}{
		{"dated", model.PosixTimer{Clock: unix.CLOCK_REALTIME, Date: 100, Left: 30}, 70, 70},
		{"dated, run out", model.PosixTimer{Clock: unix.CLOCK_REALTIME, Date: 100, Expired: 30}, 130, 130},
		{"of CPU time", model.PosixTimer{Clock: unix.CLOCK_THREAD_CPUTIME_ID}, 0, 0},
		{"of another's CPU time", model.PosixTimer{Clock: -6}, 0, 0},
		{"ahead", model.PosixTimer{Clock: unix.CLOCK_MONOTONIC}, 1e18, 2e18},
	} {
		if have, err := s.now(&c.t); err != nil || have < c.min || have > c.max {
			t.Errorf("%s: %d, %v", c.name, have, err)
		}
	}
	if _, err := s.now(&model.PosixTimer{Clock: 1000}); err == nil {
		t.Error("a clock that there is none of was read")
	}
}

// Overruns are made again only where the kernel counts them by the timer's signal alone.
func TestCountsOverruns(t *testing.T) {
	good := model.PosixTimer{ID: 1, Clock: unix.CLOCK_MONOTONIC, Signo: 34, Overrun: 2, Interval: 5, Left: 3}
	count := func(change func(p *model.Process, timer *model.PosixTimer)) bool {
		p := &model.Process{Timers: []model.PosixTimer{good}}
		change(p, &p.Timers[0])
		return countsOverruns(p, &p.Timers[0])
	}
	if !count(func(*model.Process, *model.PosixTimer) {}) {
		t.Error("they are not counted at all")
	}
	for name, change := range map[string]func(p *model.Process, timer *model.PosixTimer){
		"none":           func(_ *model.Process, x *model.PosixTimer) { x.Overrun = 0 },
		"no period":      func(_ *model.Process, x *model.PosixTimer) { x.Interval = 0 },
		"not running":    func(_ *model.Process, x *model.PosixTimer) { x.Left = 0 },
		"run out":        func(_ *model.Process, x *model.PosixTimer) { x.Expired = 1 },
		"of CPU time":    func(_ *model.Process, x *model.PosixTimer) { x.Clock = unix.CLOCK_PROCESS_CPUTIME_ID },
		"SIGTRAP":        func(_ *model.Process, x *model.PosixTimer) { x.Signo = int(unix.SIGTRAP) },
		"without signal": func(_ *model.Process, x *model.PosixTimer) { x.Notify = 1 },
		"shared signal": func(p *model.Process, x *model.PosixTimer) {
			p.Timers = append(p.Timers, model.PosixTimer{ID: 2, Signo: 34})
		},
	} {
		if count(change) {
			t.Errorf("%s: they are counted", name)
		}
	}
}

// A timer that has less than a microsecond to go is not disarmed.
func TestIntervalBelowAMicrosecond(t *testing.T) {
	b := itimerval(model.ITimer{Value: 1, Interval: 2_000_001_000})
	if sec, us := binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:]); sec != 0 || us != 1 {
		t.Errorf("value %d s %d us", sec, us)
	}
	if sec, us := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]); sec != 2 || us != 1 {
		t.Errorf("interval %d s %d us", sec, us)
	}
}
