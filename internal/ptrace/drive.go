package ptrace

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Driving is for processes that the tracer owns and builds, not for targets: their registers are ours to set, and they
// are killed when the tracing thread ends. All their signals but SIGTRAP are expected to be blocked (SetSigMask), so
// that none interferes.

const driveOptions = optionSysGood | optionTraceFork | optionTraceVfork | optionTraceClone | optionExitKill

// Own seizes a running single-threaded process in order to drive it, and waits until it has stopped. It and every
// process and thread it creates are killed when the tracing thread ends before they are released.
func (t *Tracer) Own(pid int) (*Thread, error) {
	th := &Thread{Pid: pid, Tid: pid, t: t}
	err := th.do("take over", func() error {
		if err := th.seize(driveOptions); err != nil {
			return err
		}
		_, err := th.waitFor(func(s unix.WaitStatus) bool { return int(s)>>16 == eventStop })
		return err
	})
	if err != nil {
		return nil, err
	}
	return th, nil
}

// SuspendSeccomp makes the kernel ignore the thread's seccomp filters until it is released (PTRACE_O_SUSPEND_SECCOMP,
// Linux 4.3; needs CONFIG_CHECKPOINT_RESTORE and CAP_SYS_ADMIN).
func (th *Thread) SuspendSeccomp() error {
	return th.do("suspend seccomp", func() error {
		return request(unix.PTRACE_SETOPTIONS, th.Tid, 0, driveOptions|optionSuspendSeccomp)
	})
}

// Adopt returns the thread with the given id, which a driven thread has just made, stopped before its first
// instruction.
func (t *Tracer) Adopt(pid, tid int) (*Thread, error) {
	th := &Thread{Pid: pid, Tid: tid, t: t}
	err := th.do("wait for its first stop", func() error {
		_, err := th.waitFor(func(s unix.WaitStatus) bool { return int(s)>>16 == eventStop })
		return err
	})
	if err != nil {
		return nil, err
	}
	return th, nil
}

// errDied is wrapped when a driven thread ends instead of stopping.
var errDied = errors.New("the thread died")

// wait blocks until the thread stops; its death is an error.
func (th *Thread) wait() (unix.WaitStatus, error) {
	for {
		_, status, err := th.collect(0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		case status.Signaled():
			return 0, fmt.Errorf("%w of signal %d (%s)", errDied, status.Signal(), unix.SignalName(status.Signal()))
		case status.Exited():
			return 0, fmt.Errorf("%w with exit status %d", errDied, status.ExitStatus())
		}
		return status, nil
	}
}

// waitFor waits for a stop that want accepts. Any other one is an error: nothing else is supposed to happen to a driven
// thread.
func (th *Thread) waitFor(want func(unix.WaitStatus) bool) (unix.WaitStatus, error) {
	status, err := th.wait()
	if err != nil {
		return 0, err
	}
	if !want(status) {
		return 0, fmt.Errorf("unexpected stop: %s", th.describe(status))
	}
	return status, nil
}

// goOn lets the thread go on with a request to the next stop that want accepts. A SIGCONT that comes to its process,
// pending or not, is told of by a stop on the way (PTRACE_EVENT_STOP, ptrace(2)), which means nothing here.
func (th *Thread) goOn(req int, want func(unix.WaitStatus) bool) (unix.WaitStatus, error) {
	for {
		if err := request(req, th.Tid, 0, 0); err != nil {
			return 0, err
		}
		status, err := th.wait()
		if err != nil || want(status) {
			return status, err
		}
		if int(status)>>16 != eventStop {
			return 0, fmt.Errorf("unexpected stop: %s", th.describe(status))
		}
	}
}

func isSyscallStop(s unix.WaitStatus) bool {
	return s.StopSignal() == unix.SIGTRAP|syscallStopBit
}

// isBirth reports a stop that tells of a new process or thread.
func isBirth(s unix.WaitStatus) bool {
	event := int(s) >> 16
	return event == eventFork || event == eventVfork || event == eventClone
}

func isTrap(s unix.WaitStatus) bool { return s.StopSignal() == unix.SIGTRAP && int(s)>>16 == 0 }

// describe says where and why a thread stopped.
func (th *Thread) describe(status unix.WaitStatus) string {
	text := fmt.Sprintf("signal %d (%s), event %d", status.StopSignal(), unix.SignalName(status.StopSignal()),
		int(status)>>16)
	var r Regs
	if _, err := getRegset(th.Tid, regsetPRStatus, r.Bytes()); err == nil {
		text += ", " + r.describe()
	}
	if info, err := getSigInfo(th.Tid); err == nil {
		text += fmt.Sprintf(", siginfo %x", info[:32])
	}
	return text
}

// Call makes the thread execute one system call with the instruction for that at insn and stop again at the exit from
// it, before any further instruction: insn may be unmapped by the very call. It returns the raw result; an errno result
// is the error.
func (th *Thread) Call(insn, nr uint64, args ...uint64) (int64, error) {
	var result int64
	err := th.do(fmt.Sprintf("system call %d", nr), func() error {
		r, err := th.enter(insn, nr, args...)
		if err != nil {
			return err
		}
		if _, err := th.goOn(unix.PTRACE_SYSCALL, isSyscallStop); err != nil {
			return err
		}
		if _, err := getRegset(th.Tid, regsetPRStatus, r.Bytes()); err != nil {
			return err
		}
		result = r.Result()
		return nil
	})
	if err == nil && result < 0 && result > -4096 {
		return result, unix.Errno(-result)
	}
	return result, err
}

// CallNew is Call for a system call that creates a process or thread, whose id in our pid namespace it returns; Adopt
// takes it over.
func (th *Thread) CallNew(insn, nr uint64, args ...uint64) (id int, err error) {
	var result int64
	err = th.do(fmt.Sprintf("system call %d", nr), func() error {
		r, err := th.enter(insn, nr, args...)
		if err != nil {
			return err
		}
		for {
			status, err := th.goOn(unix.PTRACE_SYSCALL,
				func(s unix.WaitStatus) bool { return isSyscallStop(s) || isBirth(s) })
			if err != nil {
				return err
			}
			if isSyscallStop(status) {
				break
			}
			msg, err := getEventMsg(th.Tid)
			if err != nil {
				return err
			}
			id = int(msg)
		}
		if _, err := getRegset(th.Tid, regsetPRStatus, r.Bytes()); err != nil {
			return err
		}
		result = r.Result()
		return nil
	})
	if err == nil && result < 0 {
		return 0, unix.Errno(-result)
	}
	return id, err
}

// enter brings the thread to the entry stop of a system call.
func (th *Thread) enter(insn, nr uint64, args ...uint64) (*Regs, error) {
	r := &Regs{}
	if _, err := getRegset(th.Tid, regsetPRStatus, r.Bytes()); err != nil {
		return nil, err
	}
	r.SetCall(insn, nr, args...)
	if err := setRegset(th.Tid, regsetPRStatus, r.Bytes()); err != nil {
		return nil, err
	}
	_, err := th.goOn(unix.PTRACE_SYSCALL, isSyscallStop)
	return r, err
}

func (th *Thread) interruptAndContinue() error {
	if err := request(requestInterrupt, th.Tid, 0, 0); err != nil {
		return err
	}
	if err := request(unix.PTRACE_CONT, th.Tid, 0, 0); err != nil {
		return err
	}
	_, err := th.waitFor(func(s unix.WaitStatus) bool { return int(s)>>16 == eventStop })
	return err
}

// Settle takes the thread from any stop into a PTRACE_INTERRUPT stop without executing an instruction of it. From there
// the kernel, when the thread is released, delivers signals and restarts the interrupted system call that the registers
// describe.
func (th *Thread) Settle() error { return th.do("settle", th.interruptAndContinue) }

// Run sets the registers and lets the thread run until it executes a breakpoint instruction. onNew is called
// with the id of each process or thread that it creates meanwhile; it may be nil if it creates none.
func (th *Thread) Run(r *Regs, onNew func(id int) error) error {
	return th.do("run", func() error {
		if err := setRegset(th.Tid, regsetPRStatus, r.Bytes()); err != nil {
			return err
		}
		for {
			status, err := th.goOn(unix.PTRACE_CONT,
				func(s unix.WaitStatus) bool { return isTrap(s) || onNew != nil && isBirth(s) })
			if err != nil {
				return err
			}
			if isTrap(status) {
				_, err := getRegset(th.Tid, regsetPRStatus, r.Bytes())
				return err
			}
			id, err := getEventMsg(th.Tid)
			if err != nil {
				return err
			}
			if err := onNew(int(id)); err != nil {
				return err
			}
		}
	})
}

// Outlive lets a driven thread live on if we end: then it is as if it were released.
func (th *Thread) Outlive() error {
	return th.do("let it outlive us", func() error { return request(unix.PTRACE_SETOPTIONS, th.Tid, 0, 0) })
}

// Release detaches from a driven thread: from now on it belongs to nobody and survives us. With a job-control stop
// signal the thread is left stopped.
func (th *Thread) Release() error { return th.do("release", th.detach) }

// Kill ends the whole process of a driven thread and waits until the kernel has taken it down. It is idempotent.
func (th *Thread) Kill() error {
	if err := unix.Kill(th.Pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fault.New(fault.Ptrace, fmt.Sprintf("pid %d", th.Pid), "kill: %w", err)
	}
	return nil
}
