package ptrace

import "fmt"

// Regs is struct user_regs_struct (arch/x86/include/asm/user_64.h), the layout of NT_PRSTATUS, 216 bytes.
type Regs struct {
	R15, R14, R13, R12, Rbp, Rbx, R11, R10   uint64
	R9, R8, Rax, Rcx, Rdx, Rsi, Rdi, OrigRax uint64
	Rip, Cs, Eflags, Rsp, Ss, FsBase, GsBase uint64
	Ds, Es, Fs, Gs                           uint64
}

// noSyscall in OrigRax tells the kernel that the registers are not those of an interrupted system call
// (arch/x86/kernel/signal.c).
const noSyscall = ^uint64(0)

// SetCall prepares the registers for one system call with the `syscall` instruction at insn.
func (r *Regs) SetCall(insn, nr uint64, args ...uint64) {
	var a [6]uint64
	copy(a[:], args)
	r.Rip, r.Rax, r.OrigRax = insn, nr, noSyscall
	r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9 = a[0], a[1], a[2], a[3], a[4], a[5]
}

// Syscall returns the number of the system call the registers are interrupted in and the kernel's pending result, which
// is one of -ERESTARTSYS (512), -ERESTARTNOINTR (513), -ERESTARTNOHAND (514) and -ERESTART_RESTARTBLOCK (516) if the
// kernel is going to restart it (include/linux/errno.h). ok is false if the thread was not in a system call.
func (r *Regs) Syscall() (nr uint64, result int64, ok bool) {
	return r.OrigRax, int64(r.Rax), int64(r.OrigRax) >= 0
}

// SetBatch prepares the registers for the batch loop of internal/stub: code is its address, the records lie from first
// up to end. The stack pointer is out of the way of any alternate signal stack, which must not be in use while it is
// set.
func (r *Regs) SetBatch(code, first, end uint64) error {
	r.Rip, r.Rbx, r.Rbp, r.Rsp, r.OrigRax, r.Rax = code, first, end, 0, noSyscall, 0
	r.Eflags = 0x202 // interrupts enabled, direction flag clear
	return nil
}

// PC is the program counter.
func (r *Regs) PC() uint64 { return r.Rip }

// SP is the stack pointer.
func (r *Regs) SP() uint64 { return r.Rsp }

// Result is what a system call has returned, at its exit.
func (r *Regs) Result() int64 { return int64(r.Rax) }

// describe is for messages.
func (r *Regs) describe() string {
	return fmt.Sprintf("rip %#x, rax %#x, orig_rax %d", r.Rip, r.Rax, int64(r.OrigRax))
}

// Finish makes the registers those of a system call that has returned: no restart.
func (r *Regs) Finish(result int64) { r.Rax, r.OrigRax = uint64(result), noSyscall }

// SetInit prepares the registers for the init of a pid namespace in internal/stub: it reaps children until child ends
// and writes how to the descriptor report.
func (r *Regs) SetInit(code, child, report uint64) error {
	r.Rip, r.R12, r.R13, r.OrigRax, r.Rax = code, child, report, noSyscall, 0
	return nil
}
