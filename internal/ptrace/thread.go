package ptrace

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Thread is one traced thread.
type Thread struct {
	Pid, Tid int
	JobStop  int // the stop signal if the thread was in a job-control stop when it was seized, else 0
	t        *Tracer
	detached bool
	asked    int64      // when it was asked to stop, CLOCK_MONOTONIC ns
	timed    *timedWait // the call with a timeout that it was stopped in, nil if it is in none
}

// Rseq is the answer of PTRACE_GET_RSEQ_CONFIGURATION (Linux 5.13); Ptr 0 means the thread has registered none.
type Rseq struct {
	Ptr       uint64
	Size, Sig uint32
}

// SUD is the answer of PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG (Linux 6.4).
type SUD struct{ Mode, Selector, Offset, Len uint64 }

// do runs f on the tracing thread and turns its error into a fault that names the thread.
func (th *Thread) do(what string, f func() error) error {
	err := th.t.Do(f)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, &fault.Error{Code: fault.NotPorted}):
		return err
	case errors.Is(err, unix.ESRCH):
		return fault.New(fault.TargetGone, fmt.Sprintf("thread %d of pid %d", th.Tid, th.Pid), "%s: %w", what, err)
	}
	return fault.New(fault.Ptrace, fmt.Sprintf("thread %d of pid %d", th.Tid, th.Pid), "%s: %w", what, err)
}

// Regs reads the general registers (NT_PRSTATUS).
func (th *Thread) Regs() (Regs, error) {
	var r Regs
	err := th.do("read registers", func() error {
		_, err := getRegset(th.Tid, regsetPRStatus, r.Bytes())
		return err
	})
	return r, err
}

// SetRegs writes the general registers.
func (th *Thread) SetRegs(r *Regs) error {
	return th.do("write registers", func() error { return setRegset(th.Tid, regsetPRStatus, r.Bytes()) })
}

// SigMask reads the mask the thread returns to (PTRACE_GETSIGMASK): inside sigsuspend(2) or ppoll(2) the one from
// before the call.
func (th *Thread) SigMask() (mask uint64, err error) {
	err = th.do("read the signal mask", func() (err error) {
		mask, err = getSigMask(th.Tid)
		return err
	})
	return mask, err
}

// SetSigMask sets the blocked signals (PTRACE_SETSIGMASK).
func (th *Thread) SetSigMask(mask uint64) error {
	return th.do("write the signal mask", func() error { return setSigMask(th.Tid, mask) })
}

// Pending reads the queued signals without taking them (PTRACE_PEEKSIGINFO), a siginfo_t of 128 bytes each, in queue
// order: the thread's own, or with shared those of the whole process.
func (th *Thread) Pending(shared bool) (infos [][]byte, err error) {
	const batch = 32
	err = th.do("read pending signals", func() error {
		var buf [batch * sizeofSigInfo]byte
		for off := uint64(0); ; {
			n, err := peekSigInfo(th.Tid, off, shared, buf[:])
			if err != nil || n == 0 {
				return err
			}
			for i := range n {
				infos = append(infos, append([]byte(nil), buf[i*sizeofSigInfo:(i+1)*sizeofSigInfo]...))
			}
			off += uint64(n)
		}
	})
	return infos, err
}

// Rseq reads the rseq registration.
func (th *Thread) Rseq() (r Rseq, err error) {
	err = th.do("read the rseq registration", func() (err error) {
		r, err = getRseq(th.Tid)
		return err
	})
	return r, err
}

// SeccompFilters reads the installed classic BPF programs, oldest first, 8 bytes an instruction, with their
// SECCOMP_FILTER_FLAG_* bits. It needs CAP_SYS_ADMIN and CONFIG_CHECKPOINT_RESTORE (PTRACE_SECCOMP_GET_FILTER, Linux
// 4.4; _GET_METADATA, 4.16).
func (th *Thread) SeccompFilters() (progs [][]byte, flags []uint32, err error) {
	err = th.do("read seccomp filters", func() error {
		for i := 0; ; i++ {
			prog, err := seccompFilter(th.Tid, i)
			if errors.Is(err, unix.ENOENT) || i == 0 && errors.Is(err, unix.EINVAL) {
				return nil // past the newest; or the thread is not in filter mode
			}
			if err != nil {
				return err
			}
			f, err := seccompFlags(th.Tid, i)
			if err != nil {
				return err
			}
			// The kernel numbers from the oldest (get_nth_filter of kernel/seccomp.c), whatever ptrace(2) says.
			progs = append(progs, prog)
			flags = append(flags, f)
		}
	})
	return progs, flags, err
}

// SUD reads the syscall user dispatch configuration. A kernel before 6.4 cannot tell: the error wraps unix.EIO.
func (th *Thread) SUD() (s SUD, err error) {
	err = th.do("read syscall user dispatch", func() (err error) {
		s, err = getSUD(th.Tid)
		return err
	})
	return s, err
}

// SetSUD sets the syscall user dispatch configuration (PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, Linux 6.4).
func (th *Thread) SetSUD(s SUD) error {
	return th.do("set syscall user dispatch", func() error { return setSUD(th.Tid, &s) })
}
