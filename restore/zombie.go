package restore

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// die makes a process what it was at the snapshot: dead and not waited for.
func (p *process) die() error {
	if err := p.j.step("make a zombie"); err != nil {
		return err
	}
	if len(p.rec.Args) > 0 {
		at := stackOf(p)
		if err := p.lead.Poke(at, append([]byte(p.rec.Args[0]), 0)); err != nil {
			return err
		}
		if _, err := p.call("set the name", unix.SYS_PRCTL, unix.PR_SET_NAME, at); err != nil {
			return err
		}
	}
	regs, err := p.lead.Regs()
	if err != nil {
		return err
	}
	status := unix.WaitStatus(p.rec.ExitCode)
	if status.Signaled() {
		if err := p.readyToDie(status); err != nil {
			return err
		}
		regs.SetCall(p.insn(), unix.SYS_KILL, uint64(p.rec.Pid), uint64(status.Signal()))
	} else {
		regs.SetCall(p.insn(), unix.SYS_EXIT_GROUP, uint64(status.ExitStatus()))
	}
	if err := p.lead.SetRegs(&regs); err != nil {
		return err
	}
	if err := p.lead.Release(); err != nil {
		return err
	}
	return awaitState(p.pid, "Z")
}

// readyToDie makes a process one that a signal kills, without a core dump: that would be one of the stub.
func (p *process) readyToDie(status unix.WaitStatus) error {
	if _, err := p.call("forbid a core dump", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	if status.CoreDump() {
		p.j.note("%s, a zombie, had dumped core: its status will tell of the signal only",
			p.object())
	}
	if status.Signal() == unix.SIGKILL {
		return nil // it has no action, and nothing can block it
	}
	return p.lead.SetSigMask(0)
}

// awaitState waits until a process is in the given state (proc_pid_stat(5)), for two seconds at most.
func awaitState(pid int, state string) error {
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(200 * time.Microsecond) {
		f, ok := statFields(pid)
		if !ok {
			return fmt.Errorf("wait for pid %d: %w", pid, os.ErrNotExist)
		}
		if f[0] == state {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("pid %d stays in state %s instead of %s", pid, f[0], state)
		}
	}
}
