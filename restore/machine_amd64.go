package restore

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// startsAt are addresses that a thread is about to use: its stack, and what its FS base points to.
func startsAt(t *model.Thread) []uint64 {
	regs, err := ptrace.RegsFrom(t.Regs)
	if err != nil {
		return nil // it is reported when the registers are set
	}
	return []uint64{regs.Rsp, regs.FsBase}
}

const archSetCPUID = 0x1012 // ARCH_SET_CPUID (arch_prctl(2))

// setMachine restores what only a thread on this architecture has registered with the kernel.
func setMachine(b *batch, t *model.Thread) {
	if t.CPUIDFault {
		b.call("forbid cpuid", unix.SYS_ARCH_PRCTL, archSetCPUID, 0)
	}
}

// fitXState makes an extended state of the image as long as the kernel here wants it. Components that this CPU lacks
// must be in their initial state (struct xregs_state, arch/x86/include/asm/fpu/types.h: the header is at 512, its first
// word tells which are not).
func fitXState(saved, have []byte) ([]byte, error) {
	const header, features = 512, 464
	if len(saved) < header+64 || len(have) < header+64 {
		return nil, fmt.Errorf("an extended state of %d bytes, here %d", len(saved), len(have))
	}
	used := binary.LittleEndian.Uint64(saved[header:])
	offered := binary.LittleEndian.Uint64(have[features:])
	if used&^offered != 0 {
		return nil, fmt.Errorf("register components %#x are in use and this CPU offers %#x", used, offered)
	}
	fit := make([]byte, len(have))
	copy(fit, saved)
	copy(fit[features:features+48], have[features:]) // the software-reserved bytes describe this kernel
	return fit, nil
}

// Futex operation bits (futex(2)).
const (
	futexWaitBitset = 9
	futexPrivate    = 128
	futexRealtime   = 256
	futexCommand    = 127
)

// reenter brings the thread into the system call that it was interrupted in, with the time that was left, so that the
// kernel itself keeps what restart_syscall(2) goes on with. If the call does not block any more its result is the one
// the thread gets.
func (f *finisher) reenter(p *process, th *ptrace.Thread, rec *model.Thread, regs *ptrace.Regs) error {
	rs := rec.Restart
	at := p.boot + bootData
	var nr uint64
	var args []uint64
	deadline := time.Duration(rs.Left)
	switch rs.Kind {
	case "nanosleep":
		nr, args = unix.SYS_CLOCK_NANOSLEEP, []uint64{uint64(int64(rs.Clock)), 0, at, rs.Rmtp}
	case "poll":
		timeout := int64(-1)
		if rs.Left >= 0 {
			timeout = (rs.Left + 999_999) / 1_000_000
		}
		nr, args = unix.SYS_POLL, []uint64{rs.Addr, uint64(rs.Val), uint64(timeout)}
	case "futex":
		op := regs.Rsi & (futexPrivate | futexRealtime)
		now, err := f.clocks.now(op&futexRealtime != 0)
		if err != nil {
			return err
		}
		if op&futexRealtime != 0 && regs.Rsi&futexCommand == futexWaitBitset {
			now = f.clocks.kernel.Realtime // the program named a wall clock time: that is when it wants to wake
		}
		deadline += time.Duration(now)
		nr, args = unix.SYS_FUTEX, []uint64{rs.Addr, futexWaitBitset | op, uint64(rs.Val), at, 0, uint64(rs.Bitset)}
	default:
		return fault.New(fault.RestoreState, p.object(), "thread %d is in an unknown kind of interrupted call, %q",
			rec.Tid, rs.Kind)
	}
	if err := p.j.step("re-enter " + rs.Kind); err != nil {
		return err
	}
	ts := timespec(max(int64(deadline), 1))
	if _, err := ptrace.WriteMemory(p.pid, []ptrace.Range{{Addr: at, Len: len(ts)}}, ts); err != nil {
		return err
	}
	result, err := th.Interrupted(p.insn(), nr, args...)
	if err != nil {
		return err
	}
	if result != ptrace.RestartBlock {
		regs.Finish(result)
	}
	return nil
}
