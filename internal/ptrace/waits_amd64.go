package ptrace

import (
	"encoding/binary"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

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
	switch {
	case !ok:
		return nil
	case !w.endless:
		th.timed = &timedWait{since: th.asked, regs: r}
		return nil
	case !(&code{pid: th.Pid}).isCall(r.Rip):
		return nil
	}
	noHand := int64(restartNoHand)
	r.Rax = uint64(noHand)
	return setRegset(th.Tid, regsetPRStatus, r.Bytes())
}

// look finds out how a call with a timeout can go on.
func (g *Group) look(th *Thread, t *timedWait) bool {
	w, ok := waitOf(&t.regs)
	if !ok || w.endless || !g.unused(th.Pid, &t.regs, w) {
		return false
	}
	if t.deadline, ok = g.t.Deadlines.Deadline(th.Tid, t.since); !ok {
		return false
	}
	if w.inMS {
		return true
	}
	t.room, ok = ownStack(th, &t.regs, sizeofTimespec)
	return ok
}

// unused reports whether the program will not look again at the register with the timeout, which another value can then
// be in.
func (g *Group) unused(pid int, r *Regs, w wait) bool {
	key := keyOf(pid, r, w)
	unused, known := g.unread[key]
	if !known {
		call, foreseen := g.t.calls[key]
		if !foreseen || call.unused && !call.code.stays() {
			call = afterCallOf(key)
		}
		unused = call.unused
		if g.unread == nil {
			g.unread = map[callKey]bool{}
		}
		g.unread[key] = unused
	}
	return unused
}

// foresee finds out what look will ask of a thread that is in a system call.
func (t *Tracer) foresee(pid int, c *procfs.Call) {
	interrupted := resultEINTR
	r := Regs{
		Rax: uint64(interrupted), OrigRax: c.Nr, Cs: userCS, Rip: c.PC,
		Rdi: c.Args[0], Rsi: c.Args[1], Rdx: c.Args[2], R10: c.Args[3], R8: c.Args[4], R9: c.Args[5],
	}
	if w, ok := waitOf(&r); ok && !w.endless {
		if t.calls == nil {
			t.calls = map[callKey]afterCall{}
		}
		key := keyOf(pid, &r, w)
		t.calls[key] = afterCallOf(key)
	}
}

func keyOf(pid int, r *Regs, w wait) callKey { return callKey{pid, r.Rip, w.timeout(r) == &r.Rdx} }

// afterCall is what is known of a register after a system call: nothing if it is none.
type afterCall struct {
	unused bool
	code   code // that tells so
}

func afterCallOf(key callKey) (a afterCall) {
	reg := registerR10
	if key.rdx {
		reg = registerRdx
	}
	a.code.pid = key.pid
	a.unused = a.code.isCall(key.rip) && deadAfter(a.code.read, key.rip, reg)
	return a
}

// ownStack finds dead memory below the stack pointer, where a signal would put its frame, if that is a stack (place).
// The call itself is what keeps the thread from using it, and reads it as soon as it is made again.
func ownStack(th *Thread, r *Regs, size uint64) (uint64, bool) {
	m, err := procfs.Pid(th.Pid).MapAt(r.Rsp)
	if err != nil || m == nil {
		return 0, false
	}
	return roomBelow(th, r, m, size)
}
