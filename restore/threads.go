package restore

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
)

// makeThreads makes the threads of a process with their old ids. Each stops before its first instruction.
func (p *process) makeThreads() error {
	p.threads = append(p.threads, p.lead)
	const flags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM
	b := p.batch(p.lead)
	b.onNew = func(id int) error {
		th, err := p.tr.Adopt(p.pid, id)
		if err != nil {
			return err
		}
		p.threads = append(p.threads, th)
		return nil
	}
	for i := range p.rec.Threads[1:] {
		tid := p.rec.Threads[i+1].Tid
		setTid := b.argument(inBytes(binary.LittleEndian.AppendUint32(nil, uint32(tid))))
		want := func(result int64) error {
			if err := errnoOf(result); err != nil {
				return createFault(tid, err)
			}
			return nil
		}
		b.callWant(want, fmt.Sprintf("create thread %d", tid), unix.SYS_CLONE3,
			inBytes(cloneArgs(flags, 0, setTid)[:cloneArgsSize]), cloneArgsSize)
		if len(b.data)+1024 > dataRoom {
			b.flush() // before the next set_tid, which must be in the same batch as its call
		}
	}
	return b.done()
}

// Numbers that golang.org/x/sys/unix lacks.
const (
	prSetIOFlusher   = 57
	prSetMDWE        = 65
	prSetMemoryMerge = 67
	prSetTHPDisable  = 41
	thpExceptAdvised = 2 // PR_THP_DISABLE_EXCEPT_ADVISED, Linux 6.18
	prFutexHash      = 78
	futexSetSlots    = 1 // PR_FUTEX_HASH_SET_SLOTS, Linux 6.16
	prTSCSIGSEGV     = 2
	mceKillSet       = 1
	mceKillDefault   = 2
	ioprioProcess    = 1 // IOPRIO_WHO_PROCESS (ioprio_set(2))
	defaultSlack     = 50000
	schedFlags       = 7 // SCHED_FLAG_RESET_ON_FORK, SCHED_FLAG_RECLAIM, SCHED_FLAG_DL_OVERRUN (sched_setattr(2))
)

// setThreadState gives each thread of a process the state that is its own, its credentials last. The death of its
// parent does not kill a process that is adopted at once.
func (p *process) setThreadState(adopted bool) error {
	mine, err := ownCreds()
	if err != nil {
		return err
	}
	for i := range p.rec.Threads {
		rec, th := &p.rec.Threads[i], p.threads[i]
		if err := schedule(rec, th.Tid); err != nil {
			return err
		}
		if len(rec.Seccomp.Filters) > 0 || rec.Seccomp.Mode != 0 {
			if err := th.SuspendSeccomp(); err != nil {
				return err
			}
		}
		b := p.batch(th)
		setOne(b, rec)
		setSeccomp(b, rec)
		setCreds(b, &rec.Creds, mine)
		if rec.PDeathSig != 0 && !(adopted && i == 0) { // last: a change of credentials clears it
			b.call("set the parent-death signal", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, rec.PDeathSig)
		}
		if err := b.done(); err != nil {
			return fmt.Errorf("thread %d: %w", rec.Tid, err)
		}
	}
	return nil
}

// setOne restores what a thread registers with the kernel.
func setOne(b *batch, t *model.Thread) {
	setPolicy(b, t)
	b.call("set the name", unix.SYS_PRCTL, unix.PR_SET_NAME, inString(t.Comm))
	b.call("set personality", unix.SYS_PERSONALITY, t.Personality)
	b.call("set clear_child_tid", unix.SYS_SET_TID_ADDRESS, t.ClearChildTID)
	if t.RobustList != 0 {
		b.call("set the robust list", unix.SYS_SET_ROBUST_LIST, t.RobustList, t.RobustListLen)
	}
	if t.AltStack.Size > 0 {
		var ss []byte // stack_t: sp, flags, padding, size
		ss = binary.LittleEndian.AppendUint64(ss, t.AltStack.Sp)
		ss = binary.LittleEndian.AppendUint64(ss, uint64(t.AltStack.Flags))
		ss = binary.LittleEndian.AppendUint64(ss, t.AltStack.Size)
		b.call("set the alternate stack", unix.SYS_SIGALTSTACK, inBytes(ss), 0)
	}
	if t.Rseq.Ptr != 0 {
		b.call("register rseq", unix.SYS_RSEQ, t.Rseq.Ptr, t.Rseq.Size, 0, t.Rseq.Sig)
	}
	if t.TimerSlack != 0 && t.TimerSlack != defaultSlack { // the stub has the default
		b.call("set the timer slack", unix.SYS_PRCTL, unix.PR_SET_TIMERSLACK, t.TimerSlack)
	}
	if t.TSCSignal {
		b.call("forbid the time stamp counter", unix.SYS_PRCTL, unix.PR_SET_TSC, prTSCSIGSEGV)
	}
	setMachine(b, t)
	if t.MCEKill != mceKillDefault {
		b.call("set the machine check policy", unix.SYS_PRCTL, unix.PR_MCE_KILL, mceKillSet, t.MCEKill, 0, 0)
	}
	if t.IOFlusher {
		b.call("set the I/O flusher state", unix.SYS_PRCTL, prSetIOFlusher, 1, 0, 0, 0)
	}
	for which, ctrl := range t.SpecCtrl {
		const settable, choices = unix.PR_SPEC_PRCTL,
			unix.PR_SPEC_DISABLE | unix.PR_SPEC_FORCE_DISABLE | unix.PR_SPEC_DISABLE_NOEXEC
		if ctrl&settable != 0 && ctrl&choices != 0 {
			b.call("set speculation control", unix.SYS_PRCTL, unix.PR_SET_SPECULATION_CTRL, which, ctrl&choices, 0, 0)
		}
	}
}

// schedule sets a thread's policy, priorities and CPUs from outside, where they differ from what it has inherited.
func schedule(t *model.Thread, tid int) error {
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(tid, &cpus); err != nil {
		return fmt.Errorf("read the CPUs of thread %d: %w", t.Tid, err)
	}
	want := cpuSet(t.Affinity)
	if want != cpus {
		if err := unix.SchedSetaffinity(tid, &want); err != nil {
			return fmt.Errorf("set the CPUs of thread %d: %w", t.Tid, err)
		}
	}
	have, err := unix.SchedGetAttr(tid, 0)
	if err != nil {
		return fmt.Errorf("read the policy of thread %d: %w", t.Tid, err)
	}
	s := &t.Sched
	if have.Policy != s.Policy || have.Nice != s.Nice || have.Priority != s.Priority ||
		(have.Flags^s.Flags)&schedFlags != 0 || have.Runtime != s.Runtime ||
		have.Deadline != s.Deadline || have.Period != s.Period {
		attr := unix.SchedAttr{
			Size: unix.SizeofSchedAttr, Policy: s.Policy, Flags: s.Flags & schedFlags, Nice: s.Nice,
			Priority: s.Priority,
			Runtime:  s.Runtime, Deadline: s.Deadline, Period: s.Period,
		}
		if err := unix.SchedSetAttr(tid, &attr, 0); err != nil {
			return fmt.Errorf("set the policy of thread %d: %w", t.Tid, err)
		}
		// A real-time policy leaves the nice value alone, which counts again when the policy is another.
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, int(s.Nice)); err != nil {
			return fmt.Errorf("set the nice value of thread %d: %w", t.Tid, err)
		}
	}
	if err := clamp(t, tid); err != nil {
		return err
	}
	prio, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_GET, ioprioProcess, uintptr(tid), 0)
	if errno == 0 && int(prio) == t.IOPrio {
		return nil
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, ioprioProcess, uintptr(tid), uintptr(t.IOPrio)); errno != 0 {
		return fmt.Errorf("set the I/O priority of thread %d: %w", t.Tid, errno)
	}
	return nil
}

// clamp sets the range of a thread's utilization where it differs from what the policy brought.
func clamp(t *model.Thread, tid int) error {
	c := t.Sched.Clamp
	if c == nil {
		return nil
	}
	have, err := unix.SchedGetAttr(tid, 0)
	if err == nil && (have.Util_min != c.Min || have.Util_max != c.Max) {
		const keep, both = 0x08 | 0x10, 0x20 | 0x40 // SCHED_FLAG_KEEP_ALL, SCHED_FLAG_UTIL_CLAMP
		attr := unix.SchedAttr{
			Size: unix.SizeofSchedAttr, Flags: keep | both | t.Sched.Flags&schedFlags,
			Util_min: c.Min, Util_max: c.Max,
		}
		err = unix.SchedSetAttr(tid, &attr, 0)
	}
	if err != nil {
		return fmt.Errorf("set the utilization clamp of thread %d: %w", t.Tid, err)
	}
	return nil
}

func cpuSet(words []uint64) unix.CPUSet {
	var set unix.CPUSet
	for i, w := range words {
		for bit := range 64 {
			if w&(1<<bit) != 0 {
				set.Set(64*i + bit)
			}
		}
	}
	return set
}
