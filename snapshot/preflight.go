package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// preflight refuses a pid that cannot be a target at all. It looks from outside only.
func preflight(pid int) error {
	if err := arch.Require(arch.InterruptedCalls); err != nil {
		return err
	}
	if pid <= 0 {
		return fault.New(fault.NoSuchPid, pidName(pid), "pids are positive")
	}
	s, err := procfs.Pid(pid).Stat()
	if isGone(err) {
		return fault.New(fault.NoSuchPid, pidName(pid), "there is no /proc/%d", pid)
	}
	if err != nil {
		return err
	}
	if s.Flags&procfs.PFKThread != 0 {
		return fault.New(fault.KernelThread, pidName(pid), "%s runs inside the kernel", s.Comm)
	}
	if isZombie(&s) {
		return zombieFault(pid, &s)
	}
	status, err := procfs.Pid(pid).Status()
	if err != nil {
		return err
	}
	if status.Tgid != pid {
		return fault.New(fault.NoSuchPid, pidName(pid), "it is a thread of process %d", status.Tgid).
			WithRemedy("name process %d", status.Tgid)
	}
	if err := notOurselves(pid); err != nil {
		return err
	}
	return rights(pid)
}

func zombieFault(pid int, s *procfs.Stat) error {
	if n := runningThreads(pid); n > 0 {
		return leaderEnded(pid, n)
	}
	return fault.New(fault.IsZombie, pidName(pid), "%s has ended and waits for its parent, pid %d", s.Comm, s.PPid)
}

func leaderEnded(pid, others int) *fault.Error {
	return fault.New(fault.ThreadState, pidName(pid), "its first thread has ended while %d others run on", others).
		WithRemedy("let the first thread wait for the others (pthread_exit in main cannot be saved)")
}

// runningThreads counts the threads of a process that are not about to end. The state of a process in /proc is that of
// its first thread: one whose first thread has ended looks like a zombie though others run on, and one that is being
// killed may have threads left for a moment.
func runningThreads(pid int) (n int) {
	tids, err := procfs.Pid(pid).Tasks()
	if err != nil {
		return 0 // it has been waited for
	}
	for _, tid := range tids {
		s, err := procfs.Task(pid, tid).Stat()
		if err != nil || isZombie(&s) || s.Flags&procfs.PFExiting != 0 {
			continue
		}
		if status, err := procfs.Task(pid, tid).Status(); err == nil && status.SigPnd&(1<<(unix.SIGKILL-1)) == 0 {
			n++
		}
	}
	return n
}

// notOurselves refuses this process and its ancestors: stopping one of those could stop us (a shell waits for us, a
// terminal multiplexer reads our output), and a tree that holds us cannot be saved by us.
func notOurselves(pid int) error {
	for p := os.Getpid(); p > 0; {
		if p == pid {
			if p == os.Getpid() {
				return fault.New(fault.Self, pidName(pid), "a process cannot save itself")
			}
			return fault.New(fault.Self, pidName(pid), "it is an ancestor of this command, pid %d", os.Getpid())
		}
		s, err := procfs.Pid(p).Stat()
		if err != nil {
			return nil //nolint:nilerr // the chain ends where our view of it ends
		}
		p = s.PPid
	}
	return nil
}

// rights asks the kernel for what everything else here needs: ptrace access to the process's memory.
func rights(pid int) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err == nil {
		return f.Close()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		return fault.New(fault.NoSuchPid, pidName(pid), "it ended")
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.NoRights, pidName(pid), "the kernel denies access to its memory: %w", err)
	}
	return fmt.Errorf("open the memory of pid %d: %w", pid, err)
}
