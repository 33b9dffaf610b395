package ptrace

import (
	"bytes"
	"fmt"
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

// Interrupted makes the thread execute a blocking system call that finds a signal pending at once and so leaves in the
// task what restart_syscall(2) needs. The thread is then in a PTRACE_INTERRUPT stop; the result is the kernel's
// -ERESTART_RESTARTBLOCK, or that of a call that did not need to block.
func (th *Thread) Interrupted(insn, nr uint64, args ...uint64) (int64, error) {
	var r *Regs
	err := th.do(fmt.Sprintf("interrupted system call %d", nr), func() (err error) {
		if r, err = th.enter(insn, nr, args...); err != nil {
			return err
		}
		if err := th.interruptAndContinue(); err != nil {
			return err
		}
		_, err = getRegset(th.Tid, regsetPRStatus, r.Bytes())
		return err
	})
	if err != nil {
		return 0, err
	}
	return r.Result(), nil
}
