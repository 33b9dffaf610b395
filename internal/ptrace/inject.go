package ptrace

import "golang.org/x/sys/unix"

// Injection makes a stopped thread of a target execute system calls, for what the kernel tells nobody else. This
// process may be killed at any moment of it and the target must still run on exactly where it was. So nothing is ever
// in a state from which the thread cannot find back alone:
//
//   - No code is written. The thread executes a `syscall; ret` that one of its mappings contains.
//   - Before its registers are touched, a signal frame with its whole register state is put into dead stack memory, as the delivery
//     of a signal would. The injected registers have the stack pointer at a return address that leads to rt_sigreturn(2): when the
//     tracer dies, the thread finishes the call, returns into sigreturn, and is where it was.
//   - What a borrowed stack pointer has yet to reach lies above it. On its way back the thread may meet a signal that it does not block,
//     or another tracer that borrows it once more: both put their frame below the stack pointer.
//   - The order of every step keeps that true: frame, registers, mask on the way in; mask, registers on the way out; and the way out
//     goes through a PTRACE_INTERRUPT stop, where the kernel's own restart of an interrupted system call happens at detach.
//   - PTRACE_SINGLESTEP is never used: the trap flag outlives the tracer. PTRACE_O_TRACESYSGOOD is always set: without it a system
//     call stop that nobody waited for turns into a SIGTRAP when the tracer dies.
//
// docs/adr/0030-injection.md tells more.

// Syscall is one system call to be made inside a target. It must not block, and must not touch the thread's restart
// block (nanosleep, poll, futex), registers or signal mask.
type Syscall struct {
	Nr   uint64
	Args [6]uint64
	Data []byte // if not nil: copied into the target before the call, and back after it
	Arg  int    // index of the argument that is the address of Data
	Ret  int64  // the raw result, -errno for an error
}

// Err returns the error of the call, nil if it succeeded.
func (c *Syscall) Err() error {
	if c.Ret < 0 && c.Ret > -4096 {
		return unix.Errno(-c.Ret)
	}
	return nil
}
