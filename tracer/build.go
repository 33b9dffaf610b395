package tracer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// builder turns records into image state, over all processes of one collection.
type builder struct {
	out     kstate.Collected
	pids    []int // the processes of the collection
	now     clocks
	stopped bool           // the threads are in ptrace stops
	files   map[uint64]int // identity of a struct file -> its index in out.Files
	raws    []*rawProcess
}

func (b *builder) block(code fault.Code, object, format string, args ...any) {
	b.out.Blockers = append(b.out.Blockers, fault.New(code, object, format, args...))
}

const (
	exitZombie      = 0x20 // EXIT_ZOMBIE, include/linux/sched.h
	signalContinued = 2    // SIGNAL_STOP_CONTINUED, include/linux/sched/signal.h; a wait for it takes it away
	signalGroupExit = 4    // SIGNAL_GROUP_EXIT
)

// process builds everything but mappings and descriptors.
func (b *builder) process(raw *rawProcess) (*model.Process, error) {
	r := raw.process
	p := &model.Process{
		Pid: raw.pid, PPid: int(r.Ppid), Pgid: int(r.Pgid), Sid: int(r.Sid),
		ExitSignal: int(r.ExitSignal), OOMScoreAdj: int(r.OomScoreAdj), Subreaper: r.Subreaper != 0,
		Umask: r.Umask, TTY: uint32(userDev(r.Tty)),
	}
	if r.ParentTid != r.Ppid && slices.Contains(b.pids, int(r.Ppid)) {
		p.ParentTid = int(r.ParentTid)
	}
	leader := &raw.threads[0]
	if leader.TaskFlags&pfKthread != 0 {
		return nil, fault.New(fault.KernelThread, pidName(raw.pid), "it is %q", cstring(leader.Comm[:]))
	}
	if r.ExitState == exitZombie && raw.living() == 0 {
		p.Zombie = true
		p.ExitCode = int(r.ExitCode)
		if r.SignalFlags&signalGroupExit != 0 {
			p.ExitCode = int(r.GroupExitCode)
		}
		return p, nil
	}
	if raw.mm == nil || raw.actions == nil {
		return nil, gone(raw.pid)
	}
	b.raws = append(b.raws, raw)
	if err := places(p); err != nil {
		return nil, err
	}
	for _, f := range []func(*rawProcess, *model.Process) error{b.mm, b.exe, b.shared, b.timers, b.threads} {
		if err := f(raw, p); err != nil {
			return nil, err
		}
	}
	b.processBlockers(raw)
	return p, nil
}

// shared builds what struct signal_struct and struct sighand_struct hold.
func (b *builder) shared(raw *rawProcess, p *model.Process) error {
	for i, a := range raw.actions.Action {
		if a != (bpf.IterActionRec{}) {
			p.Actions = append(p.Actions,
				model.SigAction{Signal: i + 1, Handler: a.Handler, Flags: a.Flags, Restorer: a.Restorer, Mask: a.Mask})
		}
	}
	for i, l := range raw.process.Limits {
		p.Limits[i] = model.Limit{Cur: l.Cur, Max: l.Max}
	}
	p.PendingSet = raw.process.Pending
	p.Continued = raw.process.SignalFlags&signalContinued != 0
	p.Usage, p.ChildUsage = b.usage(raw), childUsage(&raw.process.Child)
	return nil
}

// Flags of an mm (include/linux/mm_types.h). Above the dumpable bits they moved between releases: any of the ones in
// mmfSlow makes us ask /proc.
const (
	mmfDumpable = 3
	mmfSlow     = 1<<24 | 1<<28 | 1<<29 | 1<<30 | 0xffffffff<<32
	mmfAdvised  = 1 << 23 // MMF_DISABLE_THP_EXCEPT_ADVISED, Linux 6.18; something else before
	mmfMDWE     = 1 << 28 // MMF_HAS_MDWE, Linux 6.3
	mmfMDWENo   = 1 << 29 // MMF_HAS_MDWE_NO_INHERIT, Linux 6.6
)

const futexGlobal = 1 // FUTEX_GLOBAL, bpf/abi.h

func (b *builder) mm(raw *rawProcess, p *model.Process) error {
	r := raw.mm
	p.MM = model.MM{
		StartCode: r.StartCode, EndCode: r.EndCode, StartData: r.StartData, EndData: r.EndData,
		StartBrk: r.StartBrk, Brk: r.Brk, StartStack: r.StartStack,
		ArgStart: r.ArgStart, ArgEnd: r.ArgEnd, EnvStart: r.EnvStart, EnvEnd: r.EnvEnd,
		Auxv: auxv(r), Dumpable: int(r.Flags & mmfDumpable), Membarrier: membarrier(r.Membarrier),
		LockFuture: lockFuture(r.DefFlags), CoredumpFilter: uint32(r.Flags >> 2 & 0x1ff), // MMF_DUMP_FILTER_MASK
		FutexSlots: int(r.FutexSlots),
	}
	if r.FutexSlots == futexGlobal {
		p.MM.FutexSlots = model.FutexGlobal
	}
	advised := r.Flags&mmfAdvised != 0 && advisedOnly()
	if r.Flags&mmfSlow == 0 && !advised {
		return nil
	}
	p.MM.THPAdvised = advised
	return rareFlags(raw, p)
}

// lockFuture turns the default flags of new mappings (include/linux/mm.h) into those of mlockall(2).
func lockFuture(def uint64) (mcl uint32) {
	const vmLocked, vmLockOnFault = 0x2000, 0x80000
	if def&vmLocked == 0 {
		return 0
	}
	if def&vmLockOnFault != 0 {
		return unix.MCL_FUTURE | unix.MCL_ONFAULT
	}
	return unix.MCL_FUTURE
}

// rareFlags finds out what the flags of an mm mean that are not at the same place in every release.
func rareFlags(raw *rawProcess, p *model.Process) error {
	status, err := procfs.Pid(raw.pid).Status()
	if err != nil {
		return fmt.Errorf("memory flags: %w", err)
	}
	p.MM.THPDisable = !status.THPEnabled
	if raw.mm.Flags&mmfMDWE != 0 {
		p.MM.MDWE = 1 // PR_MDWE_REFUSE_EXEC_GAIN
		if raw.mm.Flags&mmfMDWENo != 0 {
			p.MM.MDWE |= 2 // PR_MDWE_NO_INHERIT
		}
	}
	p.MM.KSMMerge, err = ksmMerge(raw.pid)
	return err
}

// ksmMerge reads ksm_merge_any of /proc/PID/ksm_stat (Linux 6.4; KSM is optional).
func ksmMerge(pid int) (bool, error) {
	var st unix.Stat_t
	if unix.Stat(fmt.Sprintf("/proc/%d/ksm_stat", pid), &st) != nil {
		return false, nil
	}
	text, err := procfs.Pid(pid).Read("ksm_stat")
	if err != nil {
		return false, fmt.Errorf("memory merging: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "ksm_merge_any:" {
			return f[1] == "yes", nil
		}
	}
	return false, nil
}

// auxv is the saved vector up to and including AT_NULL.
func auxv(r *bpf.IterMmRec) []byte {
	n := int(r.AuxvLen) / 8
	out := make([]byte, 0, 16*24)
	for i := 0; i+1 < n; i += 2 {
		out = putWord(putWord(out, r.Auxv[i]), r.Auxv[i+1])
		if r.Auxv[i] == 0 {
			break
		}
	}
	return out
}

// membarrierBits pairs MEMBARRIER_STATE_* (include/linux/sched/mm.h) with MEMBARRIER_CMD_REGISTER_*
// (include/uapi/linux/membarrier.h).
var membarrierBits = []struct{ state, register uint32 }{
	{1 << 3, 1 << 2}, // global expedited
	{1 << 1, 1 << 4}, // private expedited
	{1 << 5, 1 << 6}, // private expedited, sync core
	{1 << 7, 1 << 8}, // private expedited, rseq
}

func membarrier(state uint32) (registered uint32) {
	for _, m := range membarrierBits {
		if state&m.state != 0 {
			registered |= m.register
		}
	}
	return registered
}

// exe completes the executable, whose path places has read.
func (b *builder) exe(raw *rawProcess, p *model.Process) error {
	inode := &raw.mm.Exe
	if inode.Ino == 0 {
		return gone(raw.pid)
	}
	p.Exe.Dev, p.Exe.Ino = userDev(inode.Dev), inode.Ino
	if inode.Bits&uint32(bpf.IterInodeBitINODE_UNLINKED) != 0 || inode.Magic == magicTmpfs &&
		inode.Sflags&sbKernMount != 0 {
		p.Exe.Path = strings.TrimSuffix(p.Exe.Path, procfs.Deleted)
	}
	if doubtful(inode) {
		return restat(raw.pid, "exe", &p.Exe)
	}
	return nil
}

// restat takes device and inode from stat(2) instead.
func restat(pid int, name string, f *model.MappedFile) error {
	st, err := procfs.Pid(pid).Stat2(name)
	if err != nil {
		return fmt.Errorf("identity of a mapped file: %w", err)
	}
	f.Dev, f.Ino = st.Dev, st.Ino
	return nil
}

// usage adds up the threads that are gone and those that live, and scales the ticks to the run time as cputime_adjust
// of kernel/sched/cputime.c does.
func (b *builder) usage(raw *rawProcess) model.Usage {
	r := raw.process
	u := r.Usage
	runtime := r.DeadRuntime
	for i := range raw.threads {
		t := &raw.threads[i]
		runtime += t.Runtime
		u.Utime += t.Usage.Utime
		u.Stime += t.Usage.Stime
		u.Minflt += t.Usage.Minflt
		u.Majflt += t.Usage.Majflt
		u.Inblock += t.Usage.Inblock
		u.Oublock += t.Usage.Oublock
		u.Nvcsw += t.Usage.Nvcsw
		u.Nivcsw += t.Usage.Nivcsw
	}
	u.Maxrss = max(u.Maxrss, raw.mm.HiwaterRss, raw.mm.Rss)
	out := childUsage(&u)
	out.UTime, out.STime = scaleTicks(u.Utime, u.Stime, runtime)
	out.Wall = b.now[unix.CLOCK_BOOTTIME] - int64(r.StartBoottime)
	return out
}

// scaleTicks splits the exact run time in the proportion of the ticks.
func scaleTicks(utime, stime, runtime uint64) (user, system int64) {
	switch {
	case stime == 0:
		return int64(runtime), 0
	case utime == 0:
		return 0, int64(runtime)
	}
	s := uint64(float64(runtime) * (float64(stime) / float64(stime+utime)))
	return int64(runtime - s), int64(s)
}

const pageSize = 4096

func childUsage(u *bpf.IterUsageRec) model.Usage {
	return model.Usage{
		UTime: int64(u.Utime), STime: int64(u.Stime), MinFlt: u.Minflt, MajFlt: u.Majflt,
		InBlock: u.Inblock, OuBlock: u.Oublock, NVCSw: u.Nvcsw, NIvCSw: u.Nivcsw, MaxRSS: u.Maxrss * pageSize,
	}
}

// threads builds the threads, leader first.
func (b *builder) threads(raw *rawProcess, p *model.Process) error {
	for i := range raw.threads {
		r := &raw.threads[i]
		if r.ExitState != 0 {
			continue
		}
		t, err := b.thread(raw, r)
		switch {
		case err == nil:
			p.Threads = append(p.Threads, *t)
		case b.stopped || !errors.Is(err, &fault.Error{Code: fault.TargetGone}):
			return err
		case int(r.Tid) == p.Pid:
			return gone(p.Pid)
		} // else it has ended since it was read: the tree runs
	}
	if !slices.ContainsFunc(p.Threads, func(t model.Thread) bool { return t.Tid == p.Pid }) {
		b.block(fault.ThreadState, pidName(p.Pid), "its main thread has ended while others run on")
	}
	return nil
}
