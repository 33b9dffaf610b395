package model

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits of a thread (linux/sched/types.h, linux/filter.h, linux/cpumask.h, linux/signal.h).
const (
	maxCPUWords  = 8192 / 64
	maxGroups    = 65536
	maxFilter    = 4096 * 8 // BPF_MAXINSNS struct sock_filter
	altStackBits = 2 | 1<<31
)

// threads checks the threads of a process.
func (c *validator) threads(p *Process) error {
	last := 0
	for i := range p.Threads {
		t := &p.Threads[i]
		err := firstBad(
			rule{t.Tid <= 0 || t.Tid > maxPid || c.tids[t.Tid], "its id is none or is also another's"},
			rule{i > 1 && t.Tid <= last, "it is out of order"},
		)
		if err == nil {
			err = c.thread(t)
		}
		if err != nil {
			return fmt.Errorf("thread %d: %w", t.Tid, err)
		}
		c.tids[t.Tid] = true
		last = t.Tid
	}
	return nil
}

// thread checks one thread.
func (c *validator) thread(t *Thread) error {
	if err := checkRegisters(&c.st.Kernel, t); err != nil {
		return err
	}
	err := firstBad(
		rule{len(t.Comm) > maxComm || strings.Contains(t.Comm, "\x00"), "its name is too long or has a zero byte"},
		rule{t.AltStack.Flags&^altStackBits != 0 ||
			t.AltStack.Sp+t.AltStack.Size < t.AltStack.Sp, "its alternate stack is none"},
		rule{t.Rseq.Ptr > MaxAddr || t.Rseq.Ptr != 0 &&
			(t.Rseq.Size == 0 || t.Rseq.Size > PageSize), "its rseq area is none"},
		rule{len(t.Affinity) == 0 || len(t.Affinity) > maxCPUWords ||
			t.Affinity[len(t.Affinity)-1] == 0, "its affinity is none, or has words too many"},
		rule{t.IOPrio < 0 || t.IOPrio > 0xffff, "its I/O priority is out of range"},
		rule{!sig(t.PDeathSig), "its parent-death signal is none"},
		rule{t.SUD.Mode > 1, "its syscall user dispatch mode is unknown"},
		rule{len(t.Creds.Groups) > maxGroups ||
			!slices.IsSorted(t.Creds.Groups), "its groups are too many or out of order"},
	)
	if err != nil {
		return err
	}
	return errors.Join(checkSched(&t.Sched), checkSeccomp(&t.Seccomp), checkRestart(t.Restart),
		each("pending signal", t.Pending, checkSigInfo))
}

// maxClamp is SCHED_CAPACITY_SCALE, the largest utilization.
const maxClamp = 1024

// checkSched checks a scheduling policy (SCHED_*, linux/sched.h).
func checkSched(s *Sched) error {
	return firstBad(
		rule{s.Clamp != nil && (s.Clamp.Min > s.Clamp.Max || s.Clamp.Max > maxClamp), "its utilization clamp is none"},
		rule{s.Policy > 7 || s.Policy == 4, fmt.Sprintf("its scheduling policy %d is unknown", s.Policy)},
		rule{s.Nice < -20 || s.Nice > 19 || s.Priority > 99, "its nice value or priority is out of range"},
	)
}

// checkSeccomp checks the seccomp state of a thread.
func checkSeccomp(s *Seccomp) error {
	if s.Mode < 0 || s.Mode > 2 || (s.Mode == 2) != (len(s.Filters) > 0) {
		return errors.New("its seccomp mode is unknown, or does not fit its filters")
	}
	return each("seccomp filter", s.Filters, func(f *SeccompFilter) error {
		return firstBad(rule{len(f.Prog) == 0 || len(f.Prog)%8 != 0 ||
			len(f.Prog) > maxFilter, "its program has an odd length"})
	})
}

// checkRestart checks the restart block of a thread, nil if it has none.
func checkRestart(r *Restart) error {
	if r == nil {
		return nil
	}
	return firstBad(
		rule{
			!slices.Contains([]string{"nanosleep", "futex", "poll", RestartWait}, r.Kind),
			fmt.Sprintf("its restart block of kind %q is unknown", r.Kind),
		},
		rule{r.Left < -1, "the time left of its system call is negative"},
		rule{r.Rmtp > MaxAddr || r.Addr > MaxAddr, "an address of its restart block is beyond the address space"},
	)
}
