package restore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/sigs"
	"github.com/bpfckpt/bpfckpt/model"
)

// setProcessState gives a process what belongs to all its threads and needs our rights: directories, handlers, flags of
// the address space.
func (r *restorer) setProcessState(p *process) error {
	rec := p.rec
	b := p.batch(p.lead)
	b.callWant(ignore, "set umask", unix.SYS_UMASK, rec.Umask) // returns the old one
	cwd := rec.Cwd
	if rec.CwdGone != nil {
		if r.tree.stub.pidNS {
			return fault.New(fault.PidNS, p.object(),
				"its working directory %s was removed, and is not made again there yet", rec.Cwd).
				WithRemedy("restore it under its own ids, without a pid namespace, when they are free")
		}
		fd, err := r.descriptors.rebuilder().RemovedDir(rec.Cwd, rec.CwdGone)
		if err != nil {
			return err
		}
		cwd = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	}
	b.call("change to "+rec.Cwd, unix.SYS_CHDIR, inString(cwd))
	if rec.Root != "/" {
		b.call("change the root to "+rec.Root, unix.SYS_CHROOT, inString(rec.Root))
	}
	if rec.Subreaper {
		b.call("become a subreaper", unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 1)
	}
	for i := range rec.Actions {
		a := &rec.Actions[i]
		if unix.Signal(a.Signal) != unix.SIGTRAP { // see lastCalls
			b.call(fmt.Sprintf("set the action of signal %d", a.Signal), unix.SYS_RT_SIGACTION, a.Signal,
				inBytes(actionBytes(a)), 0, sigsetSize)
		}
	}
	setMMFlags(b, &rec.MM)
	r.takeTerminal(b, p)
	if err := b.done(); err != nil {
		return err
	}
	if err := setProcFiles(p); err != nil {
		return err
	}
	return p.sealMappings()
}

const sigsetSize = 8

// actionBytes is the kernel's struct sigaction on x86-64: handler, flags, restorer, mask.
func actionBytes(a *model.SigAction) []byte {
	var s []byte
	for _, v := range []uint64{a.Handler, a.Flags, a.Restorer, a.Mask} {
		s = binary.LittleEndian.AppendUint64(s, v)
	}
	return s
}

func setMMFlags(b *batch, mm *model.MM) {
	for bits := mm.Membarrier; bits != 0; bits &= bits - 1 {
		b.call("register for membarrier", unix.SYS_MEMBARRIER, bits&-bits, 0, 0)
	}
	if mm.THPAdvised {
		b.call("disable huge pages but where advised", unix.SYS_PRCTL, prSetTHPDisable, 1, thpExceptAdvised, 0, 0)
	}
	if mm.KSMMerge {
		b.call("merge pages", unix.SYS_PRCTL, prSetMemoryMerge, 1, 0, 0, 0)
	}
	if mm.FutexSlots != 0 {
		b.call("choose the hash of futexes", unix.SYS_PRCTL, prFutexHash, futexSetSlots, max(mm.FutexSlots, 0), 0, 0)
	}
	if mm.MDWE != 0 {
		b.call("deny writing and executing memory", unix.SYS_PRCTL, prSetMDWE, mm.MDWE, 0, 0, 0)
	}
}

// setAfterCreds restores what a change of credentials would undo or what records them: dumpable, owners and locks of
// descriptors, and limits, which hold from here on.
func (r *restorer) setAfterCreds(p *process) error {
	b := p.batch(p.lead)
	switch p.rec.MM.Dumpable {
	case 0, 1:
		b.call("set dumpable", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, p.rec.MM.Dumpable)
	default:
		return fault.New(fault.RestoreState, p.object(), "dumpable is %d, which only the kernel can set",
			p.rec.MM.Dumpable)
	}
	for _, s := range r.descriptors.table().Steps(p.rec.Pid) {
		b.callWant(stepVerdict(s), s.Want, s.Call, stepArguments(s)...)
	}
	for i, l := range p.rec.Limits {
		if i == rlimitSigpending && p.manyPending() {
			var own unix.Rlimit
			if err := unix.Getrlimit(i, &own); err != nil {
				return fmt.Errorf("read our limit of pending signals: %w", err)
			}
			l = model.Limit{Cur: own.Max, Max: own.Max} // until limitPending
		}
		b.callWant(r.limitVerdict(p, i), fmt.Sprintf("set limit %d", i), unix.SYS_PRLIMIT64, 0, i,
			inBytes(limitBytes(l)), 0)
	}
	return b.done()
}

// rlimitSigpending is RLIMIT_SIGPENDING (getrlimit(2)).
const rlimitSigpending = 11

// limitPending sets the limit of pending signals when all are pending: more can be, of timers too, than its limit
// allows by now.
func (r *restorer) limitPending(p *process) error {
	if !p.manyPending() {
		return nil // setAfterCreds has set it
	}
	b := p.batch(p.lead)
	b.callWant(r.limitVerdict(p, rlimitSigpending), "set the limit of pending signals", unix.SYS_PRLIMIT64, 0,
		rlimitSigpending, inBytes(limitBytes(p.rec.Limits[rlimitSigpending])), 0)
	return b.done()
}

// manyPending reports whether a process has anything that counts as a pending signal.
func (p *process) manyPending() bool {
	return len(p.rec.Pending) > 0 || len(p.rec.Timers) > 0 ||
		slices.ContainsFunc(p.rec.Threads, func(t model.Thread) bool { return len(t.Pending) > 0 })
}

func stepArguments(s fdtable.Step) []any {
	var args []any
	for _, a := range s.Args {
		args = append(args, a)
	}
	if s.Data != nil {
		args = append(args, inBytes(s.Data))
	}
	return args
}

// stepVerdict forgives a step the error it may fail with; nil stands for any success.
func stepVerdict(s fdtable.Step) func(int64) error {
	if s.Ignore == 0 {
		return nil
	}
	return func(result int64) error {
		if err := errnoOf(result); err != nil && !errors.Is(err, s.Ignore) {
			return err
		}
		return nil
	}
}

// limitVerdict explains the one way in which setting a limit fails.
func (r *restorer) limitVerdict(p *process, limit int) func(int64) error {
	return func(result int64) error {
		if err := errnoOf(result); err != nil {
			return fault.New(fault.RestoreState, p.object(), "resource limit %d was higher than ours: %w", limit, err).
				WithRemedy("raise the hard limit of the shell that runs the restore, or give it CAP_SYS_RESOURCE")
		}
		return nil
	}
}

// setTimers makes and starts the timers of a process, with the time that was left.
func (r *restorer) setTimers(p *process) error {
	b := p.batch(p.lead)
	for which, t := range p.rec.ITimers {
		if t.Value != 0 {
			b.call(fmt.Sprintf("start interval timer %d", which), unix.SYS_SETITIMER, which, inBytes(itimerval(t)), 0)
		}
	}
	if len(p.rec.Timers) > 0 {
		if err := b.done(); err != nil {
			return err
		}
		if err := r.makeTimers(p); err != nil {
			return err
		}
	}
	taken := map[*model.PosixTimer]bool{}
	for i := range p.rec.Timers {
		t := &p.rec.Timers[i]
		if !countsOverruns(p.rec, t) {
			continue
		}
		if err := b.done(); err != nil { // a batch belongs to one thread, and makes its calls before the next
			return err
		}
		var err error
		if taken[t], err = r.overrun(p, t); err != nil {
			return err
		}
	}
	for i := range p.rec.Timers {
		t := &p.rec.Timers[i]
		switch {
		case taken[t]:
		case t.Expired != 0:
			if err := r.startTimer(b, t, -t.Expired); err != nil {
				return err
			}
		case t.Date != 0 && t.Left != 0:
			if err := r.startTimer(b, t, t.Left); err != nil {
				return err
			}
		case t.Left != 0:
			b.call(fmt.Sprintf("start timer %d", t.ID), unix.SYS_TIMER_SETTIME, t.ID, 0,
				inBytes(itimerspec(t.Left, t.Interval)), 0)
		}
	}
	return b.done()
}

// startTimer starts a timer such that it runs out at a time, ns from now, or from the freeze if it has a date. One that
// is in the past is for a timer whose signal was pending: the signal is queued by the kernel, which then counts the
// overruns as it would have.
func (r *restorer) startTimer(b *batch, t *model.PosixTimer, in int64) error {
	now, err := r.timerNow(t)
	if err != nil {
		return err
	}
	at := max(now+in, 1)
	const absolute = 1 // TIMER_ABSTIME
	b.call(fmt.Sprintf("start timer %d", t.ID), unix.SYS_TIMER_SETTIME, t.ID, absolute,
		inBytes(itimerspec(at, t.Interval)), 0)
	return nil
}

// timerNow is the time of a timer's clock from which it goes on: that of the snapshot if it has a date.
func (r *restorer) timerNow(t *model.PosixTimer) (int64, error) {
	switch {
	case t.Date != 0 && t.Expired != 0:
		return t.Date + t.Expired, nil
	case t.Date != 0:
		return t.Date - t.Left, nil
	case countsCPU(t):
		return 0, nil // it has just begun
	}
	var now unix.Timespec
	if err := unix.ClockGettime(int32(t.Clock), &now); err != nil {
		return 0, fmt.Errorf("read clock %d: %w", t.Clock, err)
	}
	return now.Nano() + r.clocks.shiftOf(int32(t.Clock)), nil
}

func countsCPU(t *model.PosixTimer) bool {
	return t.Clock < 0 || t.Clock == unix.CLOCK_PROCESS_CPUTIME_ID || t.Clock == unix.CLOCK_THREAD_CPUTIME_ID
}

// countsOverruns tells whether a timer has overruns that timer_getoverrun(2) still tells, and that can be made again:
// it runs, on a clock that goes by itself, and no other timer has its signal, which would be taken in its place.
func countsOverruns(p *model.Process, t *model.PosixTimer) bool {
	const signal, threadID = 0, 4 // SIGEV_SIGNAL, SIGEV_THREAD_ID
	if t.Overrun == 0 || t.Interval == 0 || t.Left == 0 || t.Expired != 0 || countsCPU(t) ||
		t.Signo == int(unix.SIGTRAP) ||
		t.Notify != signal && t.Notify != threadID {
		return false
	}
	for i := range p.Timers {
		if o := &p.Timers[i]; o != t && o.Signo == t.Signo {
			return false
		}
	}
	return true
}

// overrun starts a timer as many periods ago as it has overruns, and takes its signal, with which the kernel counts
// them. It does nothing for a timer that cannot have run for so long, and returns false.
func (r *restorer) overrun(p *process, t *model.PosixTimer) (bool, error) {
	periods := int64(t.Overrun) + 1
	if t.Interval > math.MaxInt64/2/periods {
		return false, nil
	}
	in := t.Left - periods*t.Interval
	if now, err := r.timerNow(t); err != nil || now+in < 1 {
		return false, err
	}
	th := p.lead
	for i := range p.rec.Threads {
		if p.rec.Threads[i].Tid == t.Tid {
			th = p.threads[i]
		}
	}
	b := p.batch(th)
	if err := r.startTimer(b, t, in); err != nil {
		return false, err
	}
	set := binary.LittleEndian.AppendUint64(nil, 1<<(t.Signo-1))
	wait := timespec(int64(10 * time.Second)) // it comes with the next interrupt
	b.callWant(exactly(uint64(t.Signo)), fmt.Sprintf("take the signal of timer %d", t.ID), unix.SYS_RT_SIGTIMEDWAIT,
		inBytes(set), 0, inBytes(wait), sigsetSize)
	return true, b.done()
}

// comesAgain reports that a pending signal is one that fireTimer makes the kernel queue.
func (p *process) comesAgain(info model.SigInfo) bool {
	for i := range p.rec.Timers {
		if t := &p.rec.Timers[i]; t.Expired != 0 && sigs.OfTimer([]model.SigInfo{info}, t.ID) {
			return true
		}
	}
	return false
}

// itimerval is struct itimerval: interval, then value, each in seconds and microseconds. A value below one microsecond
// becomes one: zero would disarm the timer.
func itimerval(t model.ITimer) []byte {
	var b []byte
	for _, ns := range []int64{t.Interval, t.Value} {
		us := (ns + 999) / 1000
		b = binary.LittleEndian.AppendUint64(b, uint64(us/1e6))
		b = binary.LittleEndian.AppendUint64(b, uint64(us%1e6))
	}
	return b
}

// itimerspec is struct itimerspec: interval, then value, each in seconds and nanoseconds.
func itimerspec(left, interval int64) []byte { return append(timespec(interval), timespec(left)...) }

func timespec(ns int64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(ns/1e9)), uint64(ns%1e9))
}

// prTimerCreateRestoreIDs makes timer_create(2) use the id it is given (PR_TIMER_CREATE_RESTORE_IDS, Linux 6.15).
const prTimerCreateRestoreIDs = 77

// makeTimers makes the POSIX timers with their old ids. A kernel that cannot be told the id counts upwards: there,
// timers are made and deleted until the count is right.
func (r *restorer) makeTimers(p *process) error {
	_, err := p.call("ask for timer ids", unix.SYS_PRCTL, prTimerCreateRestoreIDs, 1, 0, 0, 0)
	exact := err == nil
	next := 0
	for i := range p.rec.Timers {
		t := &p.rec.Timers[i]
		for made := false; !made; {
			id, err := r.makeTimer(p, t)
			switch {
			case err != nil:
				return err
			case id == t.ID:
				made = true
			case exact || id > t.ID || id < next:
				return fault.New(fault.RestoreState, p.object(), "timer %d: the kernel gives %d", t.ID, id)
			default:
				next = id + 1
				if _, err := p.call("delete a timer", unix.SYS_TIMER_DELETE, uint64(id)); err != nil {
					return err
				}
			}
		}
	}
	if exact {
		_, err = p.call("stop asking for timer ids", unix.SYS_PRCTL, prTimerCreateRestoreIDs, 0, 0, 0, 0)
		return err
	}
	return nil
}

func (r *restorer) makeTimer(p *process, t *model.PosixTimer) (int, error) {
	b := p.batch(p.lead)
	event := make([]byte, 64) // struct sigevent: value, signo, notify, tid
	binary.LittleEndian.PutUint64(event, t.Value)
	binary.LittleEndian.PutUint32(event[8:], uint32(t.Signo))
	binary.LittleEndian.PutUint32(event[12:], uint32(t.Notify))
	binary.LittleEndian.PutUint32(event[16:], uint32(t.Tid))
	id := make([]byte, 16)
	binary.LittleEndian.PutUint32(id, uint32(t.ID))
	idAt := b.argument(inBytes(id))
	b.call(fmt.Sprintf("create timer %d", t.ID), unix.SYS_TIMER_CREATE, t.Clock, inBytes(event), idAt)
	if err := b.done(); err != nil {
		return 0, err
	}
	if err := p.readOut(idAt, id); err != nil {
		return 0, err
	}
	return int(int32(binary.LittleEndian.Uint32(id))), nil
}
