package proc

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// threads reads what can be told from outside of each thread, leader first.
func (c *collection) threads(p *model.Process, tids []int) error {
	for _, tid := range leaderFirst(p.Pid, tids) {
		t, err := c.thread(p.Pid, tid)
		if err != nil {
			var f *fault.Error
			if errors.As(err, &f) && f.Code == fault.TargetGone && tid != p.Pid {
				continue // it ended meanwhile
			}
			return err
		}
		if t != nil {
			p.Threads = append(p.Threads, *t)
		}
	}
	if !slices.ContainsFunc(p.Threads, func(t model.Thread) bool { return t.Tid == p.Pid }) {
		c.block(fault.ThreadState, pidName(p.Pid), "its main thread has ended while others run on")
	}
	return nil
}

func leaderFirst(pid int, tids []int) []int {
	out := slices.Clone(tids)
	if i := slices.Index(out, pid); i > 0 {
		copy(out[1:i+1], out[:i])
		out[0] = pid
	}
	return out
}

// Task flags that /proc/PID/stat shows (include/linux/sched.h).
const (
	pfMCEProcess = 1 << 7
	pfMCEEarly   = 1 << 27
	pfIOFlusher  = 1<<19 | 1<<20 // PR_IO_FLUSHER, kernel/sys.c
)

// thread returns nil for one that has ended and waits for its parent or for the others.
func (c *collection) thread(pid, tid int) (*model.Thread, error) {
	dir := procfs.Task(pid, tid)
	stat, err := dir.Stat()
	if err != nil || stat.State == 'Z' || stat.State == 'X' {
		return nil, err
	}
	status, err := dir.Status()
	if err != nil {
		return nil, err
	}
	t := &model.Thread{
		Tid: tid, NoNewPrivs: status.NoNewPrivs, Seccomp: model.Seccomp{Mode: status.Seccomp}, Creds: creds(&status),
		PendingSet: status.SigPnd,
		MCEKill:    mceKill(stat.Flags), IOFlusher: stat.Flags&pfIOFlusher == pfIOFlusher,
	}
	if t.Comm, err = dir.Comm(); err != nil {
		return nil, err
	}
	if t.Personality, err = procfs.Pid(tid).Personality(); err != nil {
		return nil, err
	}
	if t.TimerSlack, err = procfs.Pid(tid).TimerSlack(); err != nil {
		return nil, err
	}
	if t.Sched, err = c.sched(tid, &stat); err != nil {
		return nil, err
	}
	if t.Affinity, err = affinity(tid); err != nil {
		return nil, err
	}
	if t.IOPrio, err = ioprio(tid); err != nil {
		return nil, err
	}
	if t.RobustList, t.RobustListLen, err = robustList(tid); err != nil {
		return nil, callFault("get_robust_list", tid, err)
	}
	if t.RobustList == 0 {
		t.RobustListLen = 0
	}
	return t, nil
}

func creds(s *procfs.Status) model.Creds {
	return model.Creds{
		UID: s.UID[0], EUID: s.UID[1], SUID: s.UID[2], FSUID: s.UID[3],
		GID: s.GID[0], EGID: s.GID[1], SGID: s.GID[2], FSGID: s.GID[3], Groups: s.Groups,
		CapInh: s.CapInh, CapPrm: s.CapPrm, CapEff: s.CapEff, CapBnd: s.CapBnd, CapAmb: s.CapAmb,
	}
}

// mceKill is what prctl(PR_MCE_KILL_GET) reports.
func mceKill(flags uint64) int {
	switch {
	case flags&pfMCEProcess == 0:
		return unix.PR_MCE_KILL_DEFAULT
	case flags&pfMCEEarly != 0:
		return unix.PR_MCE_KILL_EARLY
	}
	return unix.PR_MCE_KILL_LATE
}

// Policies and flags of sched_setattr(2).
const (
	policyDeadline  = 6     // SCHED_DEADLINE
	deadlineFlags   = 2 | 4 // SCHED_FLAG_RECLAIM, SCHED_FLAG_DL_OVERRUN
	flagResetOnFork = 1     // SCHED_FLAG_RESET_ON_FORK
)

func (c *collection) sched(tid int, stat *procfs.Stat) (model.Sched, error) {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil {
		return model.Sched{}, callFault("sched_getattr", tid, err)
	}
	s := model.Sched{
		Policy: attr.Policy, Flags: attr.Flags & flagResetOnFork, Nice: int32(stat.Nice),
		Priority: attr.Priority,
	}
	switch {
	case attr.Policy == policyDeadline:
		s.Flags |= attr.Flags & deadlineFlags
		s.Runtime, s.Deadline, s.Period = attr.Runtime, attr.Deadline, attr.Period
	case attr.Runtime != c.host.slice:
		s.Runtime = attr.Runtime
	}
	return s, nil
}

// affinity is sched_getaffinity(2), low word first, without trailing zero words.
func affinity(tid int) ([]uint64, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(tid, &set); err != nil {
		return nil, callFault("sched_getaffinity", tid, err)
	}
	var words []uint64
	for i, w := range set {
		if w != 0 {
			words = append(words, make([]uint64, i+1-len(words))...)
			words[i] = uint64(w)
		}
	}
	return words, nil
}

const ioprioWhoProcess = 1 // IOPRIO_WHO_PROCESS, include/uapi/linux/ioprio.h

func ioprio(tid int) (int, error) {
	v, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(tid), 0)
	if errno != 0 {
		return 0, callFault("ioprio_get", tid, errno)
	}
	return int(v), nil
}

func callFault(call string, tid int, err error) error {
	code := fault.ProcRead
	switch {
	case errors.Is(err, unix.ESRCH):
		code = fault.TargetGone
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		code = fault.NoRights
	}
	return fault.New(code, fmt.Sprintf("thread %d", tid), "%s: %w", call, err)
}
