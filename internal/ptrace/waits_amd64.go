package ptrace

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"time"

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

// resultEINTR is -EINTR.
const resultEINTR = -int64(unix.EINTR)

// wait is a system call that a stop ends.
type wait struct {
	endless bool
	timeout func(*Regs) *uint64 // the register that has the timeout
	inMS    bool                // it has milliseconds, else the address of a struct timespec
}

func inRdx(r *Regs) *uint64 { return &r.Rdx }
func inR10(r *Regs) *uint64 { return &r.R10 }

// Arguments of calls that a stop ends.
const (
	// FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE: not the same when made twice (fallocate(2))
	fallocMoves = 0x08 | 0x20
	uringExtArg = 1 << 3 // IORING_ENTER_EXT_ARG: there may be a timeout (io_uring_enter(2))
)

// waitOf tells which wait a call is that ended with EINTR; ok is false if it is none that can go on.
func waitOf(r *Regs) (w wait, ok bool) {
	if r.Cs != userCS || int64(r.Rax) != resultEINTR {
		return w, false
	}
	switch r.OrigRax {
	case unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT:
		return wait{endless: int32(r.R10) < 0, timeout: inR10, inMS: true}, true
	case unix.SYS_EPOLL_PWAIT2, unix.SYS_SEMTIMEDOP:
		return wait{endless: r.R10 == 0, timeout: inR10}, true
	case unix.SYS_RT_SIGTIMEDWAIT:
		return wait{endless: r.Rdx == 0, timeout: inRdx}, true
	case unix.SYS_SEMOP:
		return wait{endless: true}, true
	case unix.SYS_IO_GETEVENTS:
		return wait{endless: true}, r.R8 == 0
	case unix.SYS_IO_URING_ENTER:
		return wait{endless: true}, r.R10&uringExtArg == 0
	case unix.SYS_FALLOCATE: // of a file in memory, which takes back what it has done
		return wait{endless: true}, r.Rsi&fallocMoves == 0
	case unix.SYS_IOCTL: // tcdrain(3)
		return wait{endless: true}, uint32(r.Rsi) == unix.TCSBRK && int32(r.Rdx) != 0
	}
	return w, false
}

// InTimedWait tells whether registers are those of a call with a timeout that a stop ended, and that could go on.
func (r *Regs) InTimedWait() bool {
	w, ok := waitOf(r)
	return ok && !w.endless
}

// GoOn makes the registers of such a call ones that make it again with a timeout of left ns. If it takes its timeout
// from memory, that is what is returned, and room is where to write it first.
func (r *Regs) GoOn(left int64, room uint64) (timespec []byte) {
	w, ok := waitOf(r)
	if !ok || w.endless {
		return nil
	}
	left = max(left, 0)
	noHand := int64(restartNoHand)
	r.Rax = uint64(noHand)
	if w.inMS {
		// never too early
		*w.timeout(r) = uint64(min((left+int64(time.Millisecond)-1)/int64(time.Millisecond), math.MaxInt32))
		return nil
	}
	*w.timeout(r) = room
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(left/1e9)), uint64(left%1e9))
}

// atStop looks at the registers of a thread that has just stopped.
func (th *Thread) atStop() error {
	var r Regs
	if _, err := getRegset(th.Tid, regsetPRStatus, r.Bytes()); err != nil {
		return err
	}
	if err := th.unrewind(&r); err != nil || th.JobStop != 0 {
		return err
	}
	w, ok := waitOf(&r)
	insn := make([]byte, len(codeSyscall)) // not int $0x80, which has other numbers
	switch {
	case !ok || access(th.Pid, r.Rip-uint64(len(insn)), insn, os.O_RDONLY) != nil || !bytes.Equal(insn, codeSyscall):
		return nil
	case !w.endless:
		th.timed = &timedWait{since: th.asked}
		return nil
	}
	noHand := int64(restartNoHand)
	r.Rax = uint64(noHand)
	return setRegset(th.Tid, regsetPRStatus, r.Bytes())
}

// timedWait is a call with a timeout in which a thread was stopped.
type timedWait struct {
	since    int64 // the stop was asked for then or later, CLOCK_MONOTONIC ns
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

// look finds out how a call with a timeout can go on.
func (g *Group) look(th *Thread, t *timedWait) bool {
	var ok bool
	if t.deadline, ok = g.t.Deadlines.Deadline(th.Tid, t.since); !ok {
		return false
	}
	var r Regs
	if _, err := getRegset(th.Tid, regsetPRStatus, r.Bytes()); err != nil {
		return false
	}
	w, ok := waitOf(&r)
	if !ok || w.endless || !g.unused(th.Pid, &r, w) {
		return false
	}
	if w.inMS {
		return true
	}
	t.room, ok = g.ownStack(th, &r, sizeofTimespec)
	return ok
}

// unused reports whether the program will not look again at the register with the timeout, which another value can then
// be in.
func (g *Group) unused(pid int, r *Regs, w wait) bool {
	key := deadKey{pid, r.Rip, w.timeout(r) == &r.Rdx}
	dead, known := g.dead[key]
	if !known {
		reg := registerR10
		if key.rdx {
			reg = registerRdx
		}
		dead = deadAfter(func(at uint64, b []byte) int { return readCode(pid, at, b) }, r.Rip, reg)
		if g.dead == nil {
			g.dead = map[deadKey]bool{}
		}
		g.dead[key] = dead
	}
	return dead
}

// deadKey names a place in a program, and a register.
type deadKey struct {
	pid int
	rip uint64
	rdx bool
}

// readCode reads as much of b as there is: up to the end of a page at least.
func readCode(pid int, at uint64, b []byte) int {
	if n, err := ReadMemory(pid, []Range{{at, len(b)}}, b); err == nil {
		return n
	}
	b = b[:min(len(b), int(pageSize-at%pageSize))]
	n, err := ReadMemory(pid, []Range{{at, len(b)}}, b)
	if err != nil {
		return 0
	}
	return n
}

// ownStack finds dead memory below the stack pointer, where a signal would put its frame, if that is a stack (place).
// The call itself is what keeps the thread from using it, and reads it as soon as it is made again.
func (g *Group) ownStack(th *Thread, r *Regs, size uint64) (uint64, bool) {
	maps, ok := g.maps[th.Pid]
	if !ok {
		var err error
		if maps, err = procfs.Pid(th.Pid).Maps(); err != nil {
			return 0, false
		}
		if g.maps == nil {
			g.maps = map[int][]procfs.Map{}
		}
		g.maps[th.Pid] = maps
	}
	in := Injector{g: g, pid: th.Pid, maps: maps}
	return in.ownStack(th, r, size)
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
	g.maps = nil
}

// monotonic is our CLOCK_MONOTONIC, ns.
func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it exists
	return now.Nano()
}
