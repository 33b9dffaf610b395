package tracer

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// Task flags (include/linux/sched.h).
const (
	pfIOWorker       = 1 << 4
	pfMCEProcess     = 1 << 7
	pfUserWorker     = 1 << 14
	pfMemallocNOIO   = 1 << 19
	pfLocalThrottle  = 1 << 20
	pfKthread        = 1 << 21
	pfMCEEarly       = 1 << 27
	pfIOFlusher      = pfMemallocNOIO | pfLocalThrottle // PR_IO_FLUSHER, kernel/sys.c
	pfaNoNewPrivs    = 1 << 0                           // PFA_NO_NEW_PRIVS; this and the following in atomic_flags
	pfaSSBDisable    = 1 << 3                           // PFA_SPEC_SSB_DISABLE
	pfaSSBForce      = 1 << 4                           // PFA_SPEC_SSB_FORCE_DISABLE
	pfaIBDisable     = 1 << 5                           // PFA_SPEC_IB_DISABLE
	pfaIBForce       = 1 << 6                           // PFA_SPEC_IB_FORCE_DISABLE
	pfaSSBNoExec     = 1 << 7                           // PFA_SPEC_SSB_NOEXEC
	ssDisable        = 2                                // SS_DISABLE, include/uapi/linux/signal.h
	ssAutodisarm     = 1 << 31                          // SS_AUTODISARM
	robustHeadSize   = 24                               // sizeof(struct robust_list_head)
	nicePriority     = 120                              // DEFAULT_PRIO, include/linux/sched/prio.h
	flagResetOnFork  = 1                                // SCHED_FLAG_RESET_ON_FORK
	policyDeadline   = 6                                // SCHED_DEADLINE
	deadlineSchedAll = 2 | 4                            // SCHED_FLAG_RECLAIM, SCHED_FLAG_DL_OVERRUN
)

func (b *builder) thread(raw *rawProcess, r *bpf.IterThreadRec) (*model.Thread, error) {
	tid := int(r.Tid)
	t := &model.Thread{
		Tid: tid, Comm: cstring(r.Comm[:]), AltStack: altStack(r), ClearChildTID: r.ClearChildTid, Sched: sched(r),
		NoNewPrivs: r.AtomicFlags&pfaNoNewPrivs != 0, Seccomp: model.Seccomp{Mode: int(r.SeccompMode)},
		PDeathSig: int(r.PdeathSignal), TimerSlack: r.TimerSlack, Personality: r.Personality,
		MCEKill: mceKill(r.TaskFlags), IOFlusher: r.TaskFlags&pfIOFlusher == pfIOFlusher,
		SpecCtrl: specCtrl(r.AtomicFlags), PendingSet: r.Pending,
	}
	if r.RobustList != 0 {
		t.RobustList, t.RobustListLen = r.RobustList, robustHeadSize
	}
	var err error
	if t.Affinity, err = affinity(tid); err != nil {
		return nil, err
	}
	if t.IOPrio, err = ioprio(tid); err != nil {
		return nil, err
	}
	if t.Creds, err = raw.credsOf(r); err != nil {
		return nil, err
	}
	if b.stopped {
		b.interrupted(r, t)
		if err := b.faulting(raw.pid, r, t); err != nil {
			return nil, err
		}
	}
	if r.Bits&uint32(bpf.IterThreadBitTHREAD_MEMPOLICY) != 0 {
		t.NUMA = kstate.SomePolicy
	}
	b.threadBlockers(raw.pid, r)
	if raw.creds[r.Cred].Lsm != 0 && landlockFirst() {
		b.out.Blockers = append(b.out.Blockers,
			fault.New(fault.ThreadState, threadOf(raw.pid, r),
				"it is in a Landlock sandbox, whose rules the kernel does not tell").
				WithRemedy("start the program without the sandbox, or run bpfckpt in the same one"))
	}
	b.noteKeyrings(raw, r)
	return t, nil
}

// Keyrings of a thread (enum keyring_bit of bpf/abi.h).
const (
	keyringThread = 1 << iota
	keyringProcess
	keyringSession
)

// noteKeyrings tells of keyrings that a restored thread does not have (keyrings(7)): there is no way to make one again
// with the serial numbers of its keys.
func (b *builder) noteKeyrings(raw *rawProcess, r *bpf.IterThreadRec) {
	for _, k := range []struct {
		bit  uint32
		what string
	}{
		{keyringThread, "the keyring of a thread"},
		{keyringProcess, "the keyring of the process"},
		{keyringSession, "the session keyring, which is another than that of bpfckpt"},
	} {
		if raw.creds[r.Cred].Keyrings&k.bit == 0 {
			continue
		}
		note := fmt.Sprintf("pid %d: %s is not saved: after a restore it has that of the restore command, or none",
			raw.pid, k.what)
		if !slices.Contains(b.out.Notes, note) {
			b.out.Notes = append(b.out.Notes, note)
		}
	}
}

func altStack(r *bpf.IterThreadRec) model.AltStack {
	return makeAltStack(r.SasSp, r.SasSize, r.SasFlags)
}

// makeAltStack is what sigaltstack(2) reports of these members of task_struct.
func makeAltStack(sp, size uint64, flags uint32) model.AltStack {
	s := model.AltStack{Sp: sp, Size: size, Flags: flags & ssAutodisarm}
	if size == 0 {
		s.Flags |= ssDisable
	}
	return s
}

// sched is what sched_getattr(2) reports; a run time of a fair thread only if it was asked for (Linux 6.12).
func sched(r *bpf.IterThreadRec) model.Sched {
	s := model.Sched{Policy: r.Policy, Nice: r.StaticPrio - nicePriority, Priority: r.RtPriority}
	if r.ResetOnFork != 0 {
		s.Flags |= flagResetOnFork
	}
	switch {
	case r.Policy == policyDeadline:
		s.Flags |= uint64(r.DlFlags & deadlineSchedAll)
		s.Runtime, s.Deadline, s.Period = r.DlRuntime, r.DlDeadline, r.DlPeriod
	case r.CustomSlice != 0:
		s.Runtime = r.Slice
	}
	return s
}

// mceKill is what prctl(PR_MCE_KILL_GET) reports.
func mceKill(flags uint64) int {
	switch {
	case flags&pfMCEProcess == 0:
		return 2 // PR_MCE_KILL_DEFAULT
	case flags&pfMCEEarly != 0:
		return 1 // PR_MCE_KILL_EARLY
	}
	return 0 // PR_MCE_KILL_LATE
}

// specCtrl is what prctl(PR_GET_SPECULATION_CTRL) reports of the misfeatures a thread has had disabled, by PR_SPEC_*
// number; nil if none.
func specCtrl(flags uint64) []uint32 {
	mode := func(disable, noExec, force uint64) uint32 {
		switch {
		case flags&force != 0:
			return unix.PR_SPEC_PRCTL | unix.PR_SPEC_FORCE_DISABLE
		case flags&noExec != 0:
			return unix.PR_SPEC_PRCTL | unix.PR_SPEC_DISABLE_NOEXEC
		case flags&disable != 0:
			return unix.PR_SPEC_PRCTL | unix.PR_SPEC_DISABLE
		}
		return 0
	}
	// PR_SPEC_STORE_BYPASS, _INDIRECT_BRANCH
	modes := []uint32{mode(pfaSSBDisable, pfaSSBNoExec, pfaSSBForce), mode(pfaIBDisable, 0, pfaIBForce)}
	for len(modes) > 0 && modes[len(modes)-1] == 0 {
		modes = modes[:len(modes)-1]
	}
	if len(modes) == 0 {
		return nil
	}
	return modes
}

// credsOf finds the credentials of a thread: its own record, or the leader's, which it shares.
func (r *rawProcess) credsOf(t *bpf.IterThreadRec) (model.Creds, error) {
	c, ok := r.creds[t.Cred]
	if !ok {
		return model.Creds{}, readFault(r.pid, fmt.Errorf("%w: no credentials of thread %d", errRecord, t.Tid))
	}
	groups := c.groups
	if int(c.Ngroups) != len(groups) {
		status, err := procfs.Task(r.pid, int(t.Tid)).Status()
		if err != nil {
			return model.Creds{}, fmt.Errorf("supplementary groups: %w", err)
		}
		groups = status.Groups
	}
	return model.Creds{
		UID: c.Uid, EUID: c.Euid, SUID: c.Suid, FSUID: c.Fsuid,
		GID: c.Gid, EGID: c.Egid, SGID: c.Sgid, FSGID: c.Fsgid, Groups: groups,
		CapInh: c.Inheritable, CapPrm: c.Permitted, CapEff: c.Effective, CapBnd: c.Bset, CapAmb: c.Ambient,
		Securebits: c.Securebits,
	}, nil
}

// Indexes into the union of struct restart_block, as 64-bit words (include/linux/restart_block.h).
const (
	restartNanoClock  = 0 // clockid, type
	restartNanoRmtp   = 1
	restartNanoExpiry = 2

	restartFutexAddr   = 0
	restartFutexVal    = 1 // val, flags
	restartFutexBitset = 2 // bitset, padding
	restartFutexTime   = 3

	restartPollFDs  = 0
	restartPollN    = 1 // nfds, has_timeout
	restartPollSec  = 2
	restartPollNsec = 3
)

// interrupted builds the restart block of a thread that stopped in a call that restart_syscall(2) continues.
func (b *builder) interrupted(r *bpf.IterThreadRec, t *model.Thread) {
	w := &r.RestartRaw
	switch fn := cstring(r.RestartFn[:]); fn {
	case "", "do_no_restart_syscall":
	case "hrtimer_nanosleep_restart", "alarm_timer_nsleep_restart", "posix_cpu_nsleep_restart":
		clock := int32(w[restartNanoClock])
		t.Restart = &model.Restart{Kind: "nanosleep", Clock: int(clock), Rmtp: w[restartNanoRmtp], Exact: true}
		now, ok := b.now[clock]
		if !ok {
			b.block(fault.ThreadState, threadName(t.Tid), "it sleeps on clock %d, a CPU clock", clock)
			return
		}
		t.Restart.Left = max(int64(w[restartNanoExpiry])-now, 0)
	case "futex_wait_restart":
		flags := uint32(w[restartFutexVal] >> 32)
		t.Restart = &model.Restart{
			Kind: "futex", Addr: w[restartFutexAddr], Val: uint32(w[restartFutexVal]), Flags: flags,
			Bitset: uint32(w[restartFutexBitset]), Left: max(int64(w[restartFutexTime])-b.now[futexClock(flags)], 0),
			Exact: true,
		}
	case "do_restart_poll":
		t.Restart = &model.Restart{
			Kind: "poll", Addr: w[restartPollFDs], Val: uint32(w[restartPollN]), Left: -1,
			Exact: true,
		}
		if w[restartPollN]>>32 != 0 {
			deadline := int64(w[restartPollSec])*1e9 + int64(w[restartPollNsec])
			t.Restart.Left = max(deadline-b.now[unix.CLOCK_MONOTONIC], 0)
		}
	default:
		b.block(fault.ThreadState, threadName(t.Tid),
			"its system call would be continued by %s, which this version does not know", fn)
	}
}

// futexClock tells the clock of a futex deadline from the kernel's FLAGS_*. The bits moved in Linux 6.7
// (kernel/futex/futex.h); the flag that there is a timeout is set in every restart block and tells which: 0x40 now,
// 0x04 before.
func futexClock(flags uint32) int32 {
	const hasTimeout, clockRT, oldClockRT = 0x40, 0x20, 0x02
	realtime := flags & oldClockRT
	if flags&hasTimeout != 0 {
		realtime = flags & clockRT
	}
	if realtime != 0 {
		return unix.CLOCK_REALTIME
	}
	return unix.CLOCK_MONOTONIC
}

// threadBits is why a thread with one of these cannot be saved.
var threadBits = []struct {
	bit   bpf.IterThreadBit
	cause string
}{
	{bpf.IterThreadBitTHREAD_IO_BITMAP, "it has rights on I/O ports (ioperm)"},
	{bpf.IterThreadBitTHREAD_IOPL, "it has rights on all I/O ports (iopl)"},
	{bpf.IterThreadBitTHREAD_BREAKPOINT, "it has hardware breakpoints"},
	{bpf.IterThreadBitTHREAD_URETPROBE, "it is inside a function that someone traces (a return uprobe)"},
	{bpf.IterThreadBitTHREAD_TLS_ARRAY, "it has segment descriptors of its own (set_thread_area)"},
}

// nsNames are the namespaces of enum ns_bit that must be ours. A time namespace can be made again: package snapshot
// sees to it.
var nsNames = []struct {
	bit   bpf.IterNsBit
	name  string
	links []string // below /proc/PID/ns
}{
	{bpf.IterNsBitNS_MNT, "mount", []string{"mnt"}},
	{bpf.IterNsBitNS_PID, "pid", []string{"pid", "pid_for_children"}},
	{bpf.IterNsBitNS_NET, "network", []string{"net"}},
	{bpf.IterNsBitNS_IPC, "ipc", []string{"ipc"}},
	{bpf.IterNsBitNS_UTS, "uts", []string{"uts"}},
	{bpf.IterNsBitNS_CGROUP, "cgroup", []string{"cgroup"}},
	{bpf.IterNsBitNS_USER, "user", []string{"user"}},
}

// told is what the iterators tell.
func told() kstate.Facts {
	f := kstate.Facts{Sharing: true}
	for _, n := range nsNames {
		f.Namespaces = append(f.Namespaces, n.links...)
	}
	return f
}

func (b *builder) threadBlockers(pid int, r *bpf.IterThreadRec) {
	name := threadOf(pid, r)
	for _, c := range threadBits {
		if r.Bits&uint32(c.bit) != 0 {
			b.block(fault.ThreadState, name, "%s", c.cause)
		}
	}
	if r.Bits&uint32(bpf.IterThreadBitTHREAD_SEM_UNDO) != 0 {
		b.block(fault.ProcessState, name, "it has SysV semaphore operations to undo (SEM_UNDO)")
	}
	if r.TaskFlags&(pfIOWorker|pfUserWorker) != 0 {
		b.block(fault.ThreadState, name, "it is a worker of the kernel (io_uring)")
	} else if !wideMode(r.Cs) {
		b.block(fault.ThreadState, name, "it runs 32-bit code (cs %#x)", r.Cs)
	}
	for _, n := range nsNames {
		if r.OtherNs&uint32(n.bit) != 0 {
			b.block(fault.Namespace, name, "its %s namespace is not that of bpfckpt", n.name)
		}
	}
}

func threadName(tid int) string { return fmt.Sprintf("thread %d", tid) }

func threadOf(pid int, r *bpf.IterThreadRec) string {
	return fmt.Sprintf("thread %d of pid %d", r.Tid, pid)
}

func putWord(b []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(b, v) }
