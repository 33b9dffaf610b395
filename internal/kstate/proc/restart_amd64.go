package proc

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/timens"
	"github.com/bpfckpt/bpfckpt/model"
)

// interrupted fills Thread.Restart from the registers, which still hold the arguments of the call. The kernel keeps the
// deadline to itself; it is known where the call named an absolute one or wanted the rest to be written, else the whole
// time is taken, which Exact = false says.
func (c *collection) interrupted(th *ptrace.Thread, t *model.Thread) error {
	r, err := th.Regs()
	if err != nil {
		return err
	}
	if _, result, ok := r.Syscall(); !ok || result != ptrace.RestartBlock {
		return nil
	}
	nr, ok := ptrace.RestartedCall(th.Pid, &r)
	if !ok {
		c.block(fault.ThreadState, threadName(th.Pid, th.Tid),
			"it has been interrupted before in a system call, and its code does not tell in which")
		return nil
	}
	switch nr {
	case unix.SYS_NANOSLEEP:
		return c.sleeping(th, t, unix.CLOCK_MONOTONIC, r.Rdi, r.Rsi)
	case unix.SYS_CLOCK_NANOSLEEP:
		return c.sleeping(th, t, int(int32(r.Rdi)), r.Rdx, r.R10)
	case unix.SYS_FUTEX:
		return c.waiting(th, t, &r)
	case unix.SYS_POLL:
		t.Restart = &model.Restart{Kind: "poll", Addr: r.Rdi, Val: uint32(r.Rsi), Left: -1, Exact: true}
		if ms := int32(r.Rdx); ms >= 0 {
			t.Restart.Left, t.Restart.Exact = int64(ms)*1e6, false
		}
	default:
		c.block(fault.ThreadState, threadName(th.Pid, th.Tid),
			"its system call %d would be continued in a way this version does not know", nr)
	}
	return nil
}

// sleeping is nanosleep(2) and clock_nanosleep(2) with a relative time; an absolute one is simply made again.
func (c *collection) sleeping(th *ptrace.Thread, t *model.Thread, clock int, request, rest uint64) error {
	switch {
	case clock == unix.CLOCK_REALTIME:
		// setting the time does not change a relative sleep (kernel/time/hrtimer.c, hrtimer_init)
		clock = unix.CLOCK_MONOTONIC
	case clock < 0 || clock == unix.CLOCK_PROCESS_CPUTIME_ID || clock == unix.CLOCK_THREAD_CPUTIME_ID:
		c.block(fault.ThreadState, threadName(th.Pid, th.Tid), "it sleeps on clock %d, a CPU clock", clock)
		return nil
	}
	t.Restart = &model.Restart{Kind: "nanosleep", Clock: clock, Rmtp: rest, Exact: rest != 0}
	at := request
	if rest != 0 {
		at = rest // the kernel has just written it
	}
	var err error
	t.Restart.Left, err = timespecAt(th, at)
	return err
}

// Operations of futex(2) (include/uapi/linux/futex.h) and the kernel's flags of a wait (kernel/futex/futex.h).
const (
	futexWait       = 0
	futexWaitBitset = 9
	futexPrivate    = 128
	futexRealtime   = 256
	futexAnyBit     = 0xffffffff
)

func (c *collection) waiting(th *ptrace.Thread, t *model.Thread, r *ptrace.Regs) error {
	op := uint32(r.Rsi)
	given, err := timespecAt(th, r.R10)
	if err != nil {
		return err
	}
	rs := &model.Restart{
		Kind: "futex", Addr: r.Rdi, Val: uint32(r.Rdx), Flags: c.host.futexFlags(op),
		Bitset: futexAnyBit, Left: given,
	}
	switch op &^ (futexPrivate | futexRealtime) {
	case futexWait:
	case futexWaitBitset:
		clock := int32(unix.CLOCK_MONOTONIC)
		if op&futexRealtime != 0 {
			clock = unix.CLOCK_REALTIME
		}
		now, err := c.host.clockOf(th.Pid, clock)
		if err != nil {
			return fault.New(fault.ProcRead, "clock", "%w", err)
		}
		rs.Bitset, rs.Left, rs.Exact = uint32(r.R9), max(given-now, 0), true
	default:
		c.block(fault.ThreadState, threadName(th.Pid, th.Tid),
			"its futex operation %d would be continued in a way this version does not know", op)
		return nil
	}
	t.Restart = rs
	return nil
}

// clockOf reads a clock as a process sees it, which may be in a time namespace, ns.
func (h *host) clockOf(pid int, clock int32) (int64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(clock, &now); err != nil || clock != unix.CLOCK_MONOTONIC {
		return now.Nano(), err
	}
	its, err := timens.Of(pid)
	return now.Nano() - h.view.Time.Monotonic + its.Monotonic, err
}

// futexFlags are the kernel's flags of a wait with a timeout.
func (h *host) futexFlags(op uint32) uint32 {
	size, shared, realtime, timeout := uint32(0x02), uint32(0x10), uint32(0x20), uint32(0x40)
	if !h.newFutex {
		size, shared, realtime, timeout = 0, 0x01, 0x02, 0x04
	}
	flags := size | timeout
	if op&futexPrivate == 0 {
		flags |= shared
	}
	if op&futexRealtime != 0 {
		flags |= realtime
	}
	return flags
}

// timespecAt reads a struct timespec of the target, in ns.
func timespecAt(th *ptrace.Thread, addr uint64) (int64, error) {
	var b [16]byte
	if err := th.Peek(addr, b[:]); err != nil {
		return 0, fault.New(fault.ThreadState, threadName(th.Pid, th.Tid),
			"the timeout of its system call at %#x cannot be read: %w", addr, err)
	}
	return int64(binary.LittleEndian.Uint64(b[:]))*1e9 + int64(binary.LittleEndian.Uint64(b[8:])), nil
}
