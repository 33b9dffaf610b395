package ptrace

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// StopGroup puts a driven process, all of whose threads are settled, into the job-control stop of sig, without an
// instruction of it or a signal that is pending in between, whatever its mask: the first thread is sent SIGSTOP, which
// sig replaces on the way, and the others join. From there Release leaves them stopped. The action of sig must be the
// default one. The kernel takes a stop signal other than SIGSTOP for nothing in an orphaned process group (signal(7));
// then it is SIGSTOP that the process is stopped by. The parent gets its SIGCHLD.
func StopGroup(threads []*Thread, sig unix.Signal) error {
	first := threads[0]
	return first.do("stop its process", func() error {
		stopped, err := first.stopBy(sig)
		if err == nil && !stopped {
			stopped, err = first.stopBy(unix.SIGSTOP)
		}
		if err != nil {
			return err
		}
		if !stopped {
			return fmt.Errorf("it does not stop")
		}
		for _, th := range threads[1:] {
			if err := request(unix.PTRACE_CONT, th.Tid, 0, 0); err != nil {
				return err
			}
			if _, err := th.waitFor(isEventStop); err != nil {
				return err
			}
		}
		return nil
	})
}

// ContinueGroup lets a group that StopGroup stopped go on as SIGCONT does, without an instruction of it: whoever waits
// for that (WCONTINUED) is told, and the parent gets its SIGCHLD. The SIGCONT stays pending, whatever its action; it must
// be blocked.
func ContinueGroup(threads []*Thread) error {
	first := threads[0]
	return first.do("continue its process", func() error {
		if err := unix.Kill(first.Pid, unix.SIGCONT); err != nil {
			return err
		}
		for _, th := range threads { // each looks at what has changed, and stops before it looks for signals
			if err := request(requestInterrupt, th.Tid, 0, 0); err != nil {
				return err
			}
			if err := request(unix.PTRACE_CONT, th.Tid, 0, 0); err != nil {
				return err
			}
			if _, err := th.waitFor(isEventStop); err != nil {
				return err
			}
		}
		return nil
	})
}

func isEventStop(s unix.WaitStatus) bool { return int(s)>>16 == eventStop }

// stopBy makes the kernel act on sig in the thread as if it had been delivered to it, and reports whether that stopped
// it. The interrupt keeps the thread from going on if it did not.
func (th *Thread) stopBy(sig unix.Signal) (bool, error) {
	mask, err := getSigMask(th.Tid)
	if err != nil {
		return false, err
	}
	if err := setSigMask(th.Tid, ^uint64(0)); err != nil {
		return false, err
	}
	if err := unix.Tgkill(th.Pid, th.Tid, unix.SIGSTOP); err != nil {
		return false, err
	}
	if err := request(unix.PTRACE_CONT, th.Tid, 0, 0); err != nil {
		return false, err
	}
	if _, err := th.waitFor(func(s unix.WaitStatus) bool {
		return int(s)>>16 == 0 &&
			s.StopSignal() == unix.SIGSTOP
	}); err != nil {
		return false, err
	}
	// A signal that is blocked by now would be queued instead.
	if err := setSigMask(th.Tid, ^uint64(0)&^(1<<(uint(sig)-1))); err != nil {
		return false, err
	}
	if err := request(requestInterrupt, th.Tid, 0, 0); err != nil {
		return false, err
	}
	if err := request(unix.PTRACE_CONT, th.Tid, 0, uintptr(sig)); err != nil {
		return false, err
	}
	status, err := th.waitFor(isEventStop)
	if err != nil {
		return false, err
	}
	return status.StopSignal() != unix.SIGTRAP, setSigMask(th.Tid, mask)
}
