package ptrace

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// Injector makes system calls inside the threads of one stopped process.
type Injector struct {
	g    *Group
	pid  int
	maps []procfs.Map
	code gadgets
}

// Injector prepares injection into a process of g, whose threads are all stopped. maps are its mappings, or nil to have
// them read. The fault fault.InjectCode means that the process has no code that could be used.
func (g *Group) Injector(pid int, maps []procfs.Map) (*Injector, error) {
	if maps == nil {
		var err error
		if maps, err = procfs.Pid(pid).Maps(); err != nil {
			return nil, err
		}
	}
	code, err := findGadgets(pid, maps)
	if err != nil {
		return nil, err
	}
	return &Injector{g: g, pid: pid, maps: maps, code: code}, nil
}

// Inject makes th execute calls one after the other and puts it back exactly where it was, in a PTRACE_INTERRUPT stop.
// The results are in calls; the error is one of the mechanism. Faults: InjectRoom and InjectState (the thread has not
// been touched), InjectCall.
func (in *Injector) Inject(th *Thread, calls []Syscall) error {
	return in.g.t.Do(func() error {
		l, err := in.borrow(th, calls)
		if err != nil {
			return err
		}
		return errors.Join(l.makeCalls(calls), l.giveBack())
	})
}

// makeCalls makes the calls, in chains if that is possible.
func (l *loan) makeCalls(calls []Syscall) error {
	for len(calls) > 0 {
		n := 1
		var err error
		if l.chain != nil {
			n = min(l.chain.most, len(calls))
			err = l.runChain(calls[:n])
		} else {
			err = l.call(&calls[0])
		}
		if err != nil {
			return err
		}
		calls = calls[n:]
	}
	return nil
}

// loan is a thread whose registers are borrowed. All its methods run on the tracing thread.
type loan struct {
	th      *Thread
	code    *gadgets
	regs    Regs   // as found
	mask    uint64 // as found
	again   uint64 // number of the interrupted system call that is to be made again, if there is one
	cs      rseqSection
	base    uint64 // lowest address used
	home    uint64 // address of the frame from which the thread finds back
	data    uint64 // address of the room for Syscall.Data
	saved   []byte // what was at base
	seccomp int    // SECCOMP_MODE_*
	chain   *chain // nil: the calls are made one by one
	taken   bool   // the thread has other registers than its own
}

// borrow reads the whole state of a thread and lays down the frame from which it can find back.
func (in *Injector) borrow(th *Thread, calls []Syscall) (*loan, error) {
	l, frame, status, err := in.look(th)
	if err != nil {
		return nil, err
	}
	size, err := l.settle(in, frame, status, calls)
	if err != nil {
		return nil, err
	}
	return l, l.layDown(frame, size)
}

// settle finds the place for the frame and what else the calls need, and returns the size of it all.
func (l *loan) settle(in *Injector, frame *signalFrame, status *procfs.Status, calls []Syscall) (size uint64,
	err error,
) {
	if l.chain = l.chainable(status, calls); l.chain != nil {
		size = l.chain.lead + frame.size() + l.chain.room
		if err = l.place(in, size, l.chain.lead); err == nil {
			l.chain.at(l, frame)
			if l.seccomp != seccompFiltered || l.checkFilters(append(slices.Clone(calls), l.chain.ring())) == nil {
				return size, nil
			}
		}
	}
	l.chain = nil
	room := 0
	for i := range calls {
		room = max(room, len(calls[i].Data))
	}
	size = frame.size() + uint64(room+15)&^15
	if err = l.place(in, size, 0); err != nil {
		return 0, err
	}
	l.data = l.home + frame.size()
	if l.seccomp == seccompFiltered {
		err = l.checkFilters(calls)
	}
	return size, err
}

// place finds size bytes of dead memory. The frame is to begin lead bytes into it, a multiple of xstateAlign.
func (l *loan) place(in *Injector, size, lead uint64) (err error) {
	l.base, err = in.place(l.th, &l.regs, size)
	l.home = l.base + lead
	return err
}

// alignFrame rounds up to what keeps the frame behind aligned.
func alignFrame(n uint64) uint64 { return (n + xstateAlign - 1) &^ (xstateAlign - 1) }

// layDown saves the memory the loan uses and puts the frame there.
func (l *loan) layDown(frame *signalFrame, size uint64) error {
	th := l.th
	options := uintptr(optionSysGood)
	if l.seccomp == seccompFiltered {
		options |= optionSuspendSeccomp
	}
	err := request(unix.PTRACE_SETOPTIONS, th.Tid, 0, options)
	switch {
	case l.seccomp == seccompFiltered && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL)):
		return l.refuse("its seccomp filters cannot be suspended: that takes CAP_SYS_ADMIN and a kernel with CONFIG_CHECKPOINT_RESTORE")
	case err != nil:
		return l.fail("set options", err)
	}
	l.saved = make([]byte, size)
	if _, err := ReadMemory(th.Pid, []Range{{l.base, int(size)}}, l.saved); err != nil {
		return l.noRoom("%v", err)
	}
	if _, err := WriteMemory(th.Pid, []Range{{l.home, int(frame.size())}}, frame.bytes(l.home)); err != nil {
		return l.noRoom("%v", err)
	}
	return nil
}

func (l *loan) object() string { return fmt.Sprintf("thread %d of pid %d", l.th.Tid, l.th.Pid) }

func (l *loan) fail(what string, err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, errDied) {
		return fault.New(fault.TargetGone, l.object(), "%s: %w", what, err)
	}
	return fault.New(fault.InjectCall, l.object(), "%s: %w", what, err)
}

// Seccomp modes (include/uapi/linux/seccomp.h).
const (
	seccompOff      = 0
	seccompFiltered = 2
)

func (l *loan) refuse(format string, args ...any) error {
	return fault.New(fault.InjectState, l.object(), format, args...)
}

func (l *loan) noRoom(format string, args ...any) error {
	return fault.New(fault.InjectRoom, l.object(), format, args...)
}

// checkFilters refuses calls that the thread's filters would punish if they saw them.
func (l *loan) checkFilters(calls []Syscall) error {
	progs, _, err := l.th.SeccompFilters()
	if err != nil {
		return err
	}
	back, err := verdict(progs, seccompData(unix.SYS_RT_SIGRETURN, l.sigreturnInsn(), [6]uint64{}))
	if err != nil {
		return l.refuse("%w", err)
	}
	if back != seccompAllow && back != seccompLog {
		return l.refuse("its seccomp filters do not allow rt_sigreturn")
	}
	for i := range calls {
		args := calls[i].Args
		if calls[i].Data != nil {
			args[calls[i].Arg] = l.data
		}
		v, err := verdict(progs, seccompData(calls[i].Nr, l.code.call, args))
		if err != nil {
			return l.refuse("%w", err)
		}
		switch v {
		case seccompAllow, seccompLog, seccompErrno, seccompTrace:
		default:
			return l.refuse("its seccomp filters punish system call %d (action %#x), which they would see if bpfckpt were killed in the middle", calls[i].Nr, v)
		}
	}
	return nil
}

// call makes one system call.
func (l *loan) call(c *Syscall) error { return l.callFrom(c, l.home) }

// callFrom makes one system call that returns to what the stack holds at sp.
func (l *loan) callFrom(c *Syscall, sp uint64) error {
	args := c.Args
	at := []Range{{l.data, len(c.Data)}}
	if c.Data != nil {
		args[c.Arg] = l.data
		if _, err := WriteMemory(l.th.Pid, at, c.Data); err != nil {
			return l.fail("write the arguments", err)
		}
	}
	r := l.injected(c.Nr, args)
	r.Rsp = sp
	if err := setRegset(l.th.Tid, regsetPRStatus, r.Bytes()); err != nil {
		return l.fail("write registers", err)
	}
	if err := l.take(^uint64(0)); err != nil {
		return err
	}
	for range 2 { // to the entry of the call, then to the exit from it
		if err := l.toSyscallStop(); err != nil {
			return l.fail(fmt.Sprintf("system call %d", c.Nr), err)
		}
	}
	if _, err := getRegset(l.th.Tid, regsetPRStatus, r.Bytes()); err != nil {
		return l.fail("read the result", err)
	}
	c.Ret = int64(r.Rax)
	if c.Data != nil {
		if _, err := ReadMemory(l.th.Pid, at, c.Data); err != nil {
			return l.fail("read the answer", err)
		}
	}
	return nil
}

// take blocks signals once the thread has other registers than its own: from here on nothing but SIGKILL and SIGSTOP
// interferes. Not before, because only the frame behind the registers undoes it.
func (l *loan) take(mask uint64) error {
	if l.taken {
		return nil
	}
	l.taken = true
	if err := setSigMask(l.th.Tid, mask); err != nil {
		return l.fail("block signals", err)
	}
	return nil
}

// toSyscallStop lets the thread run to its next system call stop.
func (l *loan) toSyscallStop() error {
	for sig := 0; ; {
		if err := request(unix.PTRACE_SYSCALL, l.th.Tid, 0, uintptr(sig)); err != nil {
			return err
		}
		status, err := l.th.wait()
		if err != nil {
			return err
		}
		if isSyscallStop(status) {
			return nil
		}
		if sig, err = l.passOn(status); err != nil {
			return err
		}
	}
}

// passOn decides with which signal a thread goes on that stopped for something else than we wait for. Only what cannot
// be blocked comes here: SIGSTOP, whose stop then takes effect when the thread is released, and the notes about job
// control.
func (l *loan) passOn(status unix.WaitStatus) (sig int, err error) {
	stop := status.StopSignal()
	switch {
	case int(status)>>16 == eventStop && stop == unix.SIGTRAP:
		return 0, nil
	case int(status)>>16 == eventStop:
		l.th.JobStop = int(stop)
		return 0, nil
	case int(status)>>16 == 0 && stop == unix.SIGSTOP:
		return int(stop), nil
	}
	return 0, fmt.Errorf("unexpected stop: %s", l.th.describe(status))
}

// giveBack brings the thread into a PTRACE_INTERRUPT stop with its own registers, mask and memory.
func (l *loan) giveBack() error {
	if !l.taken {
		return nil // not even the registers were written
	}
	parked := l.parked()
	if err := setRegset(l.th.Tid, regsetPRStatus, parked.Bytes()); err != nil {
		return l.fail("park", err)
	}
	if err := l.interrupt(); err != nil {
		return l.fail("park", err)
	}
	if err := l.cs.writeBack(l.th); err != nil {
		return l.fail("write back the rseq section", err)
	}
	if err := setSigMask(l.th.Tid, l.mask); err != nil {
		return l.fail("write back the signal mask", err)
	}
	if err := setRegset(l.th.Tid, regsetPRStatus, l.regs.Bytes()); err != nil {
		return l.fail("write back registers", err)
	}
	if _, err := WriteMemory(l.th.Pid, []Range{{l.base, len(l.saved)}}, l.saved); err != nil {
		return l.fail("write back memory", err)
	}
	return nil
}

// interrupt takes the thread from a system call stop to a PTRACE_INTERRUPT stop without executing an instruction.
func (l *loan) interrupt() error {
	if err := request(requestInterrupt, l.th.Tid, 0, 0); err != nil {
		return err
	}
	for sig := 0; ; {
		if err := request(unix.PTRACE_CONT, l.th.Tid, 0, uintptr(sig)); err != nil {
			return err
		}
		status, err := l.th.wait()
		if err != nil {
			return err
		}
		if int(status)>>16 == eventStop {
			if stop := status.StopSignal(); stop != unix.SIGTRAP {
				l.th.JobStop = int(stop)
			}
			return nil
		}
		if sig, err = l.passOn(status); err != nil {
			return err
		}
	}
}
