package proc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/sigs"
	"github.com/bpfckpt/bpfckpt/model"
)

// query is one call made inside the target, and what to do with the answer.
type query struct {
	name string
	call ptrace.Syscall
	take func(*ptrace.Syscall) error // called also if the call failed
}

// batch is the queries of one thread.
type batch struct {
	queries []query
	pid     int
	tid     int
}

// ask adds a call. size is that of the answer in memory, 0 for one that is only a result; then arg is not used.
func (b *batch) ask(name string, nr uint64, args []uint64, arg, size int, take func(*ptrace.Syscall) error) {
	q := query{name: name, call: ptrace.Syscall{Nr: nr, Arg: arg}, take: take}
	copy(q.call.Args[:], args)
	if size > 0 {
		q.call.Data = make([]byte, size)
	}
	b.queries = append(b.queries, q)
}

// must makes the failure of a call a fault.
func (b *batch) must(take func(*ptrace.Syscall)) func(*ptrace.Syscall) error {
	return func(c *ptrace.Syscall) error {
		if err := c.Err(); err != nil {
			return err
		}
		take(c)
		return nil
	}
}

// run makes the calls inside th.
func (b *batch) run(in *ptrace.Injector, th *ptrace.Thread) error {
	calls := make([]ptrace.Syscall, len(b.queries))
	for i := range calls {
		calls[i] = b.queries[i].call
	}
	if err := in.Inject(th, calls); err != nil {
		return err
	}
	for i := range calls {
		if err := b.queries[i].take(&calls[i]); err != nil {
			return fault.New(fault.InjectCall, threadName(b.pid, b.tid), "%s: %w", b.queries[i].name, err)
		}
	}
	return nil
}

// inside asks a stopped process for what only its own threads can be told.
func (c *collection) inside(p *model.Process) error {
	timers, err := procfs.Pid(p.Pid).Timers()
	if err != nil {
		return err
	}
	slices.SortFunc(timers, func(a, b procfs.Timer) int { return a.ID - b.ID })
	for _, t := range timers {
		p.Timers = append(p.Timers, posixTimer(&t))
	}
	if c.g == nil {
		return nil
	}
	in, err := c.g.Injector(p.Pid, c.maps)
	if err != nil {
		return err
	}
	for i, th := range c.g.Of(p.Pid) {
		t := findThread(p, th.Tid)
		if t == nil {
			continue
		}
		if err := c.special(th); err != nil {
			return err
		}
		if err := c.interrupted(th, t); err != nil {
			return err
		}
		b := batch{pid: p.Pid, tid: th.Tid}
		c.askThread(&b, t)
		if err := c.askChildren(&b); err != nil {
			return err
		}
		if i == 0 {
			c.askProcess(&b, p)
			if err := c.lockFuture(in, th, p); err != nil {
				return err
			}
		}
		if err := b.run(in, th); err != nil {
			return err
		}
		if i == 0 && t.NUMA != "" {
			if err := ownPolicies(in, th, p); err != nil {
				return err
			}
		}
	}
	return c.overruns(p)
}

// ownPolicies leaves to mappings only the policies of their own: of others numa_maps prints that of the first thread.
func ownPolicies(in *ptrace.Injector, first *ptrace.Thread, p *model.Process) error {
	b := batch{pid: p.Pid, tid: first.Tid}
	for i := range p.VMAs {
		v := &p.VMAs[i]
		if v.NUMA == "" {
			continue
		}
		b.ask("get_mempolicy", unix.SYS_GET_MEMPOLICY, []uint64{0, 0, 0, v.Start, mpolFAddr}, 0, 4,
			b.must(func(c *ptrace.Syscall) {
				if word32(c, 0) == 0 { // MPOL_DEFAULT
					v.NUMA = ""
				}
			}))
	}
	return b.run(in, first)
}

// askChildren asks which children of a thread have been continued, and their parent does not know it yet.
func (c *collection) askChildren(b *batch) error {
	children, err := procfs.Task(b.pid, b.tid).Children()
	if err != nil {
		return err
	}
	for _, pid := range children {
		if b.tid != b.pid {
			c.parents[pid] = b.tid
		}
		b.ask("waitid", unix.SYS_WAITID,
			[]uint64{unix.P_PID, uint64(pid), 0, unix.WCONTINUED | unix.WNOHANG | unix.WNOWAIT | unix.WALL}, 2,
			sizeofSiginfo, func(s *ptrace.Syscall) error {
				if s.Ret == 0 && word32(s, 0) != 0 {
					c.continued = append(c.continued, pid)
				}
				return nil
			})
	}
	return nil
}

// overruns refuses repeating timers whose signal has been waiting for an unknown time: nothing tells how many periods
// have gone by. A signal waits only since the freeze if the thread that it is for does not block it, or any thread does
// not if it is for the process.
func (c *collection) overruns(p *model.Process) error {
	if !slices.ContainsFunc(p.Timers, func(t model.PosixTimer) bool { return t.Interval != 0 }) {
		return nil
	}
	blocked := map[int]uint64{0: ^uint64(0)} // by thread, and 0 by all of them
	var waiting [][]byte
	for i, th := range c.g.Of(p.Pid) {
		mask, err := th.SigMask()
		if err != nil {
			return err
		}
		blocked[0] &= mask
		blocked[th.Tid] = mask
		for _, shared := range []bool{false, true} {
			if shared && i > 0 {
				continue
			}
			list, err := th.Pending(shared)
			if err != nil {
				return err
			}
			waiting = append(waiting, list...)
		}
	}
	for _, t := range p.Timers {
		if t.Interval != 0 && t.Signo > 0 && blocked[t.Tid]&(1<<(t.Signo-1)) != 0 && sigs.OfTimer(waiting, t.ID) {
			c.block(fault.ProcessState, pidName(p.Pid),
				"the signal of its timer %d is waiting, and /proc does not tell since how many periods", t.ID)
		}
	}
	return nil
}

func posixTimer(t *procfs.Timer) model.PosixTimer {
	out := model.PosixTimer{ID: t.ID, Clock: t.Clock, Notify: t.Notify, Signo: t.Signo, Value: t.Value}
	if t.Notify&sigevThreadID != 0 {
		out.Tid = t.Target
	}
	return out
}

const sigevThreadID = 4 // SIGEV_THREAD_ID, include/uapi/asm-generic/siginfo.h

func findThread(p *model.Process, tid int) *model.Thread {
	for i := range p.Threads {
		if p.Threads[i].Tid == tid {
			return &p.Threads[i]
		}
	}
	return nil
}

// special reports what an image has no place for.
func (c *collection) special(th *ptrace.Thread) error {
	used, err := th.TLSArray()
	if used {
		c.block(fault.ThreadState, threadName(th.Pid, th.Tid),
			"it has segment descriptors of its own (set_thread_area)")
	}
	return err
}

// Requests of prctl(2) and arch_prctl(2) that golang.org/x/sys/unix does not name (include/uapi/linux/prctl.h,
// asm/prctl.h).
const (
	prGetMDWE   = 66 // Linux 6.3
	prGetMerge  = 68 // PR_GET_MEMORY_MERGE, Linux 6.4
	prFutexHash = 78 // PR_FUTEX_HASH, Linux 6.16
	getSlots    = 2  // PR_FUTEX_HASH_GET_SLOTS
	ssOnStack   = 1  // SS_ONSTACK, include/uapi/linux/signal.h
	mpolFAddr   = 2  // MPOL_F_ADDR, include/uapi/linux/mempolicy.h
)

func word(c *ptrace.Syscall, at int) uint64   { return binary.LittleEndian.Uint64(c.Data[at:]) }
func word32(c *ptrace.Syscall, at int) uint32 { return binary.LittleEndian.Uint32(c.Data[at:]) }

// askThread asks for what each thread has for itself.
func (c *collection) askThread(b *batch, t *model.Thread) {
	b.ask("sigaltstack", unix.SYS_SIGALTSTACK, nil, 1, 24, b.must(func(c *ptrace.Syscall) {
		t.AltStack = model.AltStack{Sp: word(c, 0), Flags: word32(c, 8) &^ ssOnStack, Size: word(c, 16)}
	}))
	b.ask("PR_GET_TID_ADDRESS", unix.SYS_PRCTL, []uint64{unix.PR_GET_TID_ADDRESS}, 1, 8,
		b.must(func(c *ptrace.Syscall) { t.ClearChildTID = word(c, 0) }))
	b.ask("PR_GET_PDEATHSIG", unix.SYS_PRCTL, []uint64{unix.PR_GET_PDEATHSIG}, 1, 4,
		b.must(func(c *ptrace.Syscall) { t.PDeathSig = int(word32(c, 0)) }))
	b.ask("PR_GET_SECUREBITS", unix.SYS_PRCTL, []uint64{unix.PR_GET_SECUREBITS}, 0, 0,
		b.must(func(c *ptrace.Syscall) { t.Creds.Securebits = uint32(c.Ret) }))
	askMachine(b, t)
	b.ask("get_mempolicy", unix.SYS_GET_MEMPOLICY, nil, 0, 4, func(s *ptrace.Syscall) error {
		if s.Ret == 0 && word32(s, 0) != 0 { // not MPOL_DEFAULT; ENOSYS without CONFIG_NUMA
			t.NUMA = kstate.SomePolicy
		}
		return nil
	})
	for which, settable := range c.host.spec {
		if !settable {
			continue
		}
		b.ask("PR_GET_SPECULATION_CTRL", unix.SYS_PRCTL, []uint64{unix.PR_GET_SPECULATION_CTRL, uint64(which)}, 0, 0,
			b.must(func(c *ptrace.Syscall) {
				if c.Ret&(unix.PR_SPEC_DISABLE|unix.PR_SPEC_FORCE_DISABLE|unix.PR_SPEC_DISABLE_NOEXEC) == 0 {
					return // as every thread begins
				}
				t.SpecCtrl = append(t.SpecCtrl, make([]uint32, which+1-len(t.SpecCtrl))...)
				t.SpecCtrl[which] = uint32(c.Ret)
			}))
	}
}

const signals = 64 // _NSIG

// askProcess asks for what all threads share.
func (c *collection) askProcess(b *batch, p *model.Process) {
	for sig := 1; sig <= signals; sig++ {
		if sig == int(unix.SIGKILL) || sig == int(unix.SIGSTOP) {
			continue
		}
		b.ask(fmt.Sprintf("rt_sigaction of signal %d", sig), unix.SYS_RT_SIGACTION, []uint64{uint64(sig), 0, 0, 8}, 2,
			32, b.must(func(c *ptrace.Syscall) {
				a := model.SigAction{
					Signal: sig, Handler: word(c, 0), Flags: word(c, 8), Restorer: word(c, 16),
					Mask: word(c, 24),
				}
				if a != (model.SigAction{Signal: sig}) {
					p.Actions = append(p.Actions, a)
				}
			}))
	}
	c.askMM(b, p)
	b.ask("PR_GET_CHILD_SUBREAPER", unix.SYS_PRCTL, []uint64{unix.PR_GET_CHILD_SUBREAPER}, 1, 4,
		b.must(func(c *ptrace.Syscall) { p.Subreaper = word32(c, 0) != 0 }))
	for which := range p.ITimers {
		b.ask("getitimer", unix.SYS_GETITIMER, []uint64{uint64(which)}, 1, 32, b.must(func(c *ptrace.Syscall) {
			t := model.ITimer{Interval: micro(c, 0), Value: micro(c, 16)}
			// 0 only if there is no interval, or if it has run out and starts again when SIGALRM is taken
			if which == 0 && t.Value == 0 {
				t.Value = t.Interval
			}
			p.ITimers[which] = t
		}))
	}
	for i := range p.Timers {
		t := &p.Timers[i]
		id := []uint64{uint64(t.ID)}
		b.ask("timer_gettime", unix.SYS_TIMER_GETTIME, id, 1, 32,
			b.must(func(c *ptrace.Syscall) { t.Interval, t.Left = nano(c, 0), nano(c, 16) }))
		b.ask("timer_getoverrun", unix.SYS_TIMER_GETOVERRUN, id, 0, 0,
			b.must(func(c *ptrace.Syscall) { t.Overrun = int(c.Ret) }))
	}
	for _, u := range []struct {
		who int
		out *model.Usage
	}{{unix.RUSAGE_SELF, &p.Usage}, {unix.RUSAGE_CHILDREN, &p.ChildUsage}} {
		b.ask("getrusage", unix.SYS_GETRUSAGE, []uint64{uint64(u.who)}, 1, sizeofRusage,
			b.must(func(c *ptrace.Syscall) { rusage(c, u.out) }))
	}
}

// Answers of PR_GET_THP_DISABLE (prctl(2)).
const (
	thpDisabled = 1
	thpAdvised  = 3 // with PR_THP_DISABLE_EXCEPT_ADVISED, Linux 6.18
)

// askMM asks for the flags of the address space.
func (c *collection) askMM(b *batch, p *model.Process) {
	mm := &p.MM
	name := pidName(p.Pid)
	b.ask("brk", unix.SYS_BRK, []uint64{0}, 0, 0, b.must(func(c *ptrace.Syscall) { mm.Brk = uint64(c.Ret) }))
	b.ask("PR_GET_DUMPABLE", unix.SYS_PRCTL, []uint64{unix.PR_GET_DUMPABLE}, 0, 0,
		b.must(func(c *ptrace.Syscall) { mm.Dumpable = int(c.Ret) }))
	b.ask("PR_GET_THP_DISABLE", unix.SYS_PRCTL, []uint64{unix.PR_GET_THP_DISABLE}, 0, 0,
		b.must(func(s *ptrace.Syscall) {
			mm.THPDisable, mm.THPAdvised = s.Ret == thpDisabled, s.Ret == thpAdvised
			if s.Ret != 0 && !mm.THPDisable && !mm.THPAdvised {
				c.block(fault.ProcessState, name,
					"it has transparent huge pages disabled in a way this version does not know (PR_GET_THP_DISABLE: %d)",
					s.Ret)
			}
		}))
	b.ask("PR_GET_MDWE", unix.SYS_PRCTL, []uint64{prGetMDWE}, 0, 0,
		optional(func(c *ptrace.Syscall) { mm.MDWE = uint32(c.Ret) }))
	b.ask("PR_GET_MEMORY_MERGE", unix.SYS_PRCTL, []uint64{prGetMerge}, 0, 0,
		optional(func(c *ptrace.Syscall) { mm.KSMMerge = c.Ret != 0 }))
	b.ask("PR_FUTEX_HASH", unix.SYS_PRCTL, []uint64{prFutexHash, getSlots}, 0, 0,
		optional(func(c *ptrace.Syscall) {
			if slots := int(c.Ret); slots > mostSlots(runtime.NumCPU()) {
				mm.FutexSlots = slots
			}
		}))
	c.askMachineMM(b, name)
	c.askMembarrier(b, mm)
}

// mostSlots is the largest hash of futexes that the kernel gives to a process on its own: for more threads than CPUs
// (futex_hash_allocate_default, kernel/futex/core.c). One that the program chose is told from it by its size alone.
func mostSlots(cpus int) int { return max(16, 1<<bits.Len(uint(4*cpus-1))) }

// optional takes the answer to a question that older kernels do not understand, and for which then nothing can be set.
func optional(take func(*ptrace.Syscall)) func(*ptrace.Syscall) error {
	return func(c *ptrace.Syscall) error {
		err := c.Err()
		if err == nil {
			take(c)
		} else if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
			err = nil
		}
		return err
	}
}

// Commands of membarrier(2) (include/uapi/linux/membarrier.h). The one that registers for a private command is the next
// bit.
const (
	membarrierRegisterGlobal   = 1 << 2
	membarrierPrivate          = 1 << 3
	membarrierPrivateSyncCore  = 1 << 5
	membarrierPrivateRseq      = 1 << 7
	membarrierGetRegistrations = 1 << 9 // Linux 6.3
)

// askMembarrier finds the registrations. Before Linux 6.3 the kernel does not tell them, but a private command succeeds
// exactly if it is registered (and then does nothing that could be noticed). The registration for the global command,
// which only makes the process receive barriers of others, is then assumed.
func (c *collection) askMembarrier(b *batch, mm *model.MM) {
	known := false
	b.ask("membarrier registrations", unix.SYS_MEMBARRIER, []uint64{membarrierGetRegistrations}, 0, 0,
		func(c *ptrace.Syscall) error {
			if known = c.Err() == nil; known {
				mm.Membarrier = uint32(c.Ret)
			} else if !errors.Is(c.Err(), unix.ENOSYS) {
				mm.Membarrier = membarrierRegisterGlobal
			}
			return nil
		})
	if c.host.membarriers {
		return
	}
	for _, command := range []uint64{membarrierPrivate, membarrierPrivateSyncCore, membarrierPrivateRseq} {
		b.ask("membarrier", unix.SYS_MEMBARRIER, []uint64{command}, 0, 0, func(c *ptrace.Syscall) error {
			if !known && c.Err() == nil {
				mm.Membarrier |= uint32(command << 1)
			}
			return nil
		})
	}
}

// nano is a struct timespec at an offset of the answer, micro a struct timeval.
func nano(c *ptrace.Syscall, at int) int64 { return int64(word(c, at))*1e9 + int64(word(c, at+8)) }

func micro(c *ptrace.Syscall, at int) int64 { return int64(word(c, at))*1e9 + int64(word(c, at+8))*1e3 }

const (
	sizeofRusage  = 144
	sizeofSiginfo = 128
)

// rusage takes a struct rusage (getrusage(2)): two timevals, then fourteen words, of which maxrss is in KiB.
func rusage(c *ptrace.Syscall, u *model.Usage) {
	n := func(i int) uint64 { return word(c, 32+8*i) }
	u.UTime, u.STime = micro(c, 0), micro(c, 16)
	u.MaxRSS, u.MinFlt, u.MajFlt, u.InBlock, u.OuBlock, u.NVCSw, u.NIvCSw = n(0)<<10, n(4), n(5), n(7), n(8), n(12),
		n(13)
}
