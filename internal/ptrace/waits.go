package ptrace

import (
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// Most system calls that wait are restarted by the kernel when a stop has interrupted them, as if nothing had been.
// Some are not: they end with EINTR, though nobody sent the program a signal (signal(7), "Interruption of system calls
// and library functions by stop signals"). Here they go on:
//
//   - The result -EINTR is replaced by -ERESTARTNOHAND: the kernel makes the call again when the thread runs, and turns that into EINTR if a
//     handler is to run first, as these calls have it.
//   - A wait without a timeout is changed so as soon as the thread has stopped; it goes on also if we die then.
//   - A wait with a timeout would begin anew, so it is changed when it is let go, in the same stroke as its timeout: to the time that is left. If that is
//     not known, or cannot be told to the kernel without the program noticing, it ends with EINTR.
//
// A call that had been interrupted before we came, by a stop signal, keeps its result.

// Deadlines tells when threads that are stopped in a system call with a timeout would have woken (kstate.Waits).
type Deadlines interface {
	// Deadline returns when the timer would have run out that a thread cancelled last, if it did so at the time since
	// or later: CLOCK_MONOTONIC ns both.
	Deadline(tid int, since int64) (at int64, ok bool)
}

// timedWait is a call with a timeout in which a thread was stopped.
type timedWait struct {
	since    int64 // the stop was asked for then or later, CLOCK_MONOTONIC ns
	regs     Regs  // as they were at the stop
	looked   bool
	can      bool   // the following is known
	deadline int64  // CLOCK_MONOTONIC ns
	room     uint64 // dead memory for a struct timespec, 0 if there is no need for one
}

// sizeofTimespec is the size of struct timespec.
const sizeofTimespec = 16

// Wait tells of a call with a timeout that a thread of g was stopped in and that will go on: the time that is left, in
// ns, and where its timeout will be in memory, if it is to be there. ok is false if the thread is in no such call, or
// if it will end.
func (g *Group) Wait(th *Thread) (left int64, room uint64, ok bool) {
	_ = g.t.Do(func() error { // it returns no error
		left, room, ok = g.wait(th)
		return nil
	})
	return left, room, ok
}

func (g *Group) wait(th *Thread) (left int64, room uint64, ok bool) {
	t := th.timed
	if t == nil || g.t.Deadlines == nil {
		return 0, 0, false
	}
	if !t.looked {
		t.looked = true
		t.can = g.look(th, t)
	}
	return t.deadline - monotonic(), t.room, t.can
}

// Foresee looks at the calls with a timeout that threads of these thread groups are in now, and finds out what there is
// to find out of their programs, so that it need not be while they stand still. They run on, and nothing may be stopped
// by t meanwhile. Of threads that have ended, or cannot be looked at, nothing is found out.
func (t *Tracer) Foresee(pids []int) {
	if t.Deadlines == nil {
		return
	}
	for _, pid := range pids {
		tids, err := procfs.Pid(pid).Tasks()
		if err != nil {
			continue
		}
		for _, tid := range tids {
			if c, err := procfs.Task(pid, tid).Call(); err == nil && c != nil {
				t.foresee(pid, c)
			}
		}
	}
}

// callKey names a place in a program, after a system call, and a register.
type callKey struct {
	pid int
	rip uint64
	rdx bool
}

// letGoOn makes calls with a timeout go on, in threads that are about to be let go. What fails leaves one that ends.
func (g *Group) letGoOn() {
	for _, th := range g.threads {
		left, room, ok := g.wait(th)
		if !ok || th.detached {
			continue
		}
		var r Regs
		if _, err := getRegset(th.Tid, regsetPRStatus, r.Bytes()); err != nil {
			continue
		}
		if text := r.GoOn(left, room); text != nil {
			if _, err := WriteMemory(th.Pid, []Range{{room, len(text)}}, text); err != nil {
				continue
			}
		}
		_ = setRegset(th.Tid, regsetPRStatus, r.Bytes()) // its timeout, and that it goes on
	}
}

// monotonic is our CLOCK_MONOTONIC, ns.
func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it exists
	return now.Nano()
}
