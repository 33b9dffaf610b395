package ptrace

import (
	"bytes"
	"os"

	"golang.org/x/sys/unix"
)

// unrewind gives a stopped thread that is just about to execute restart_syscall(2) the registers it had before the
// kernel sent it there: those of a system call that was interrupted and has a restart block. The kernel sends it there
// again when it runs. A thread gets into that state when it is stopped again right after it was let go, before its next
// instruction; nothing else in the registers tells that there is a restart block, so without this it would be lost.
func (th *Thread) unrewind(r *Regs) error {
	if r.Rax != unix.SYS_RESTART_SYSCALL || r.Cs != userCS {
		return nil
	}
	insn := make([]byte, len(codeSyscall))
	if err := access(th.Pid, r.Rip, insn, os.O_RDONLY); err != nil || !bytes.Equal(insn, codeSyscall) {
		return nil // rax just has that value
	}
	if int64(r.OrigRax) < 0 { // it had already returned to user mode
		r.OrigRax = unix.SYS_RESTART_SYSCALL
	}
	r.Rip += uint64(len(codeSyscall))
	r.Rax = ^uint64(-RestartBlock - 1)
	return setRegset(th.Tid, regsetPRStatus, r.Bytes())
}
