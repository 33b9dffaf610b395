package ptrace

import (
	"fmt"

	"github.com/bpfckpt/bpfckpt/internal/arch"
)

// Regs is struct user_pt_regs (arch/arm64/include/uapi/asm/ptrace.h), the layout of NT_PRSTATUS, 272 bytes.
type Regs struct {
	X              [31]uint64
	Sp, Pc, Pstate uint64
}

// sysNr is the register that has the number of a system call.
const sysNr = 8

// SetCall prepares the registers for one system call with the `svc #0` instruction at insn.
func (r *Regs) SetCall(insn, nr uint64, args ...uint64) {
	var a [6]uint64
	copy(a[:], args)
	r.Pc, r.X[sysNr] = insn, nr
	copy(r.X[:], a[:])
}

// Syscall returns the system call that the registers are interrupted in. They never tell: when a tracer sees them the
// kernel has already made them those with which the call is made again, if it is to be (arch/arm64/kernel/signal.c,
// do_signal). lacks: InterruptedCalls
func (r *Regs) Syscall() (nr uint64, result int64, ok bool) { return 0, 0, false }

// PC is the program counter.
func (r *Regs) PC() uint64 { return r.Pc }

// SP is the stack pointer.
func (r *Regs) SP() uint64 { return r.Sp }

// Result is what a system call has returned, at its exit.
func (r *Regs) Result() int64 { return int64(r.X[0]) }

// describe is for messages.
func (r *Regs) describe() string {
	return fmt.Sprintf("pc %#x, x0 %#x, x8 %d", r.Pc, r.X[0], int64(r.X[sysNr]))
}

// SetBatch would prepare the registers for the batch loop of internal/stub.
func (r *Regs) SetBatch(code, first, end uint64) error { return arch.Lacks(arch.Stub) }

// SetInit would prepare the registers for the init of a pid namespace in internal/stub.
func (r *Regs) SetInit(code, child, report uint64) error { return arch.Lacks(arch.Stub) }
