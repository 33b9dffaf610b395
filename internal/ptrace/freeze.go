package ptrace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// Group is a set of stopped thread groups.
type Group struct {
	t       *Tracer
	pids    []int // in the order given
	threads []*Thread

	unread map[callKey]bool // registers that are not used after a call with a timeout
}

// Freeze seizes and stops every thread of the given thread groups, again and again until no new thread appears. Those
// that have ended are left out (Of), but for the first, whose end is fault.TargetGone. On error nothing stays attached.
// A thread that does not stop within timeout gives fault.Freeze that names it.
func (t *Tracer) Freeze(ctx context.Context, pids []int, timeout time.Duration) (*Group, error) {
	g := &Group{t: t}
	if err := g.Add(ctx, pids, timeout); err != nil {
		return nil, err
	}
	if len(pids) > 0 && len(g.Of(pids[0])) == 0 {
		return nil, errors.Join(fault.New(fault.TargetGone, fmt.Sprintf("pid %d", pids[0]),
			"it ended before it could be stopped"), g.Thaw())
	}
	return g, nil
}

// Add freezes more thread groups into g, children that were found after the first ones stood still for example. Those
// that have ended are left out. On error everything in g is thawed.
func (g *Group) Add(ctx context.Context, pids []int, timeout time.Duration) error {
	g.pids = append(g.pids, pids...)
	return g.t.Do(func() error {
		f := freezer{g: g, ctx: ctx, deadline: time.Now().Add(timeout), known: map[int]bool{}, ended: map[int]bool{}}
		g.t.letGo(pids)
		for _, th := range g.threads {
			f.known[th.Tid] = true
		}
		done := false
		// A panic must not leave a target stopped behind a running tool.
		defer func() {
			if !done {
				f.abandon()
			}
		}()
		if err := f.run(pids); err != nil {
			return err
		}
		if err := f.leaveOut(); err != nil {
			return err
		}
		g.sort()
		done = true
		return nil
	})
}

// Threads returns all threads, grouped by process in the order given to Freeze, leader first, then ascending tid.
func (g *Group) Threads() []*Thread { return g.threads }

// Tracer returns the tracer the group belongs to.
func (g *Group) Tracer() *Tracer { return g.t }

// Of returns the threads of one process, leader first.
func (g *Group) Of(pid int) []*Thread {
	first := slices.IndexFunc(g.threads, func(th *Thread) bool { return th.Pid == pid })
	if first < 0 {
		return nil
	}
	n := slices.IndexFunc(g.threads[first:], func(th *Thread) bool { return th.Pid != pid })
	if n < 0 {
		n = len(g.threads) - first
	}
	return g.threads[first : first+n]
}

// Thaw detaches from every thread; each goes on where it was, one in a job-control stop stays in it. It may be called
// twice.
func (g *Group) Thaw() error {
	return g.t.Do(func() error {
		g.letGoOn()
		var errs []error
		for _, th := range g.threads {
			if err := th.detach(); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("detach from thread %d: %w", th.Tid, err))
			}
		}
		return errors.Join(errs...)
	})
}

func (th *Thread) detach() error {
	if th.detached {
		return nil
	}
	th.detached = true
	return request(unix.PTRACE_DETACH, th.Tid, 0, 0)
}

func (g *Group) sort() {
	order := map[int]int{}
	for i, pid := range g.pids {
		order[pid] = i
	}
	rank := func(th *Thread) int { // the leader before every other thread, whatever its number
		if th.Tid == th.Pid {
			return 0
		}
		return th.Tid
	}
	slices.SortFunc(g.threads, func(a, b *Thread) int {
		if c := order[a.Pid] - order[b.Pid]; c != 0 {
			return c
		}
		return rank(a) - rank(b)
	})
}

// freezer is one Freeze under way, on the tracing thread.
type freezer struct {
	g        *Group
	ctx      context.Context
	deadline time.Time
	known    map[int]bool // tids seized so far, or found dead
	waiting  []*Thread    // seized, not yet seen to stop
	ended    map[int]bool // processes whose first thread has ended
}

func (f *freezer) run(pids []int) error {
	for {
		fresh := 0
		for _, pid := range pids {
			n, err := f.seizeAll(pid)
			if err != nil {
				return err
			}
			fresh += n
		}
		if fresh == 0 {
			return nil
		}
		if err := f.awaitStops(); err != nil {
			return err
		}
	}
}

// seizeAll seizes the threads of one process that are not yet known and asks them to stop.
func (f *freezer) seizeAll(pid int) (fresh int, err error) {
	tids, err := listThreads(pid)
	if errors.Is(err, &fault.Error{Code: fault.TargetGone}) {
		f.ended[pid] = true
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, tid := range tids {
		if f.known[tid] {
			continue
		}
		th := f.g.t.left[tid]
		if th != nil && th.Pid == pid {
			delete(f.g.t.left, tid) // an earlier Freeze has seized it
			f.take(th)
			fresh++
			continue
		}
		th = &Thread{Pid: pid, Tid: tid, t: f.g.t}
		if err := th.seize(0); err != nil {
			if err = seizeFault(th, err); !errors.Is(err, &fault.Error{Code: fault.TargetGone}) {
				return 0, err
			}
			if tid == pid { // another one is not in the next listing
				f.known[tid], f.ended[pid] = true, true
			}
			continue
		}
		f.take(th)
		fresh++
	}
	return fresh, nil
}

// take waits from now on for a thread that was asked to stop.
func (f *freezer) take(th *Thread) {
	f.known[th.Tid] = true
	f.waiting = append(f.waiting, th)
}

func (th *Thread) seize(options int) error {
	if err := request(requestSeize, th.Tid, 0, uintptr(options)); err != nil {
		return err
	}
	th.asked = monotonic()
	return request(requestInterrupt, th.Tid, 0, 0)
}

// awaitStops waits until each seized thread has stopped or ended.
func (f *freezer) awaitStops() error {
	pause := 10 * time.Microsecond
	for {
		progress := false
		for i := 0; i < len(f.waiting); i++ {
			th := f.waiting[i]
			stopped, gone, err := th.pollStop()
			if err != nil && !stopped {
				return err
			}
			if !stopped && !gone {
				continue
			}
			progress = true
			if stopped {
				f.g.threads = append(f.g.threads, th)
				if err != nil {
					return err
				}
			} else if th.Tid == th.Pid {
				f.ended[th.Pid] = true
			}
			f.waiting = slices.Delete(f.waiting, i, i+1)
			i--
		}
		if len(f.waiting) == 0 {
			return nil
		}
		if err := f.ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(f.deadline) {
			return f.timeout()
		}
		if progress {
			pause = 10 * time.Microsecond
			continue
		}
		time.Sleep(pause)
		pause = min(2*pause, time.Millisecond)
	}
}

// leaveOut takes processes that ended meanwhile out of the group. Their threads end with them; one that does not
// belongs to a process whose first thread alone has ended, which cannot be taken apart like that.
func (f *freezer) leaveOut() error {
	g := f.g
	for i := 0; i < len(g.threads); i++ {
		th := g.threads[i]
		if !f.ended[th.Pid] {
			continue
		}
		for {
			if _, gone, err := th.pollStop(); gone || err != nil {
				break
			}
			if err := f.ctx.Err(); err != nil {
				return err
			}
			if time.Now().After(f.deadline) {
				return fault.New(fault.TargetGone, fmt.Sprintf("pid %d", th.Pid),
					"its first thread ended while it was being stopped")
			}
			time.Sleep(100 * time.Microsecond)
		}
		g.threads = slices.Delete(g.threads, i, i+1)
		i--
	}
	g.pids = slices.DeleteFunc(g.pids, func(pid int) bool { return f.ended[pid] })
	return nil
}

func (f *freezer) timeout() error {
	th := f.waiting[0]
	return fault.New(fault.Freeze, fmt.Sprintf("thread %d of pid %d", th.Tid, th.Pid),
		"it did not stop in time (state %s, waiting in %s)", procWord(th.Tid, "stat", 2), procLine(th.Tid, "wchan"))
}

// pollStop asks, without blocking, whether the thread has reached its stop. Signals that reach the thread first are
// passed on: it then handles them and stops right after.
func (th *Thread) pollStop() (stopped, gone bool, err error) {
	for {
		pid, status, err := th.collect(unix.WNOHANG)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return false, true, nil
		case err != nil:
			return false, false, fault.New(fault.Ptrace, fmt.Sprintf("thread %d of pid %d", th.Tid, th.Pid), "wait: %w",
				err)
		case pid == 0:
			return false, false, nil
		case status.Exited() || status.Signaled():
			return false, true, nil
		case int(status)>>16 == eventStop:
			if sig := status.StopSignal(); sig != unix.SIGTRAP {
				th.JobStop = int(sig)
			}
			if err := th.atStop(); err != nil && !errors.Is(err, unix.ESRCH) {
				return true, false, fault.New(fault.Ptrace, fmt.Sprintf("thread %d of pid %d", th.Tid, th.Pid),
					"look at its registers: %w", err)
			}
			return true, false, nil
		}
		if err := request(unix.PTRACE_CONT, th.Tid, 0, uintptr(status.StopSignal())); err != nil &&
			!errors.Is(err, unix.ESRCH) {
			return false, false, fault.New(fault.Ptrace, fmt.Sprintf("thread %d of pid %d", th.Tid, th.Pid),
				"pass on a signal: %w", err)
		}
	}
}

// abandon detaches from everything, at once from what has stopped. A thread that has not cannot be detached: it is
// waited for a little longer, and left to the next Freeze if even that does not help, or to the end of the tracing
// thread.
func (f *freezer) abandon() {
	for _, th := range f.g.threads {
		_ = th.detach() // it is gone if this fails
	}
	end := time.Now().Add(100 * time.Millisecond)
	for len(f.waiting) > 0 && time.Now().Before(end) {
		th := f.waiting[0]
		stopped, gone, err := th.pollStop()
		if stopped {
			_ = th.detach()
		}
		if stopped || gone || err != nil {
			f.waiting = f.waiting[1:]
			continue
		}
		time.Sleep(200 * time.Microsecond)
	}
	for _, th := range f.waiting {
		if f.g.t.left == nil {
			f.g.t.left = map[int]*Thread{}
		}
		f.g.t.left[th.Tid] = th
	}
}

// letGo detaches from threads left over that have stopped by now, if they are of none of pids.
func (t *Tracer) letGo(pids []int) {
	for tid, th := range t.left {
		if slices.Contains(pids, th.Pid) {
			continue
		}
		stopped, gone, err := th.pollStop()
		if stopped {
			_ = th.detach()
		}
		if stopped || gone || err != nil {
			delete(t.left, tid)
		}
	}
}

func seizeFault(th *Thread, err error) error {
	object := fmt.Sprintf("pid %d", th.Pid)
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EPERM) &&
		dead(th): // the kernel refuses the dead like strangers
		return fault.New(fault.TargetGone, object, "it ended before it could be stopped")
	case errors.Is(err, unix.EPERM):
		if tracer := tracerOf(th.Tid); tracer > 0 {
			return fault.New(fault.Traced, object, "pid %d (%s) traces it", tracer, procLine(tracer, "comm"))
		}
		return fault.New(fault.NoRights, object, "seize thread %d: %w", th.Tid, err)
	}
	return fault.New(fault.Ptrace, object, "seize thread %d: %w", th.Tid, err)
}

// dead reports whether a thread has ended, though its parent may still have to wait for it.
func dead(th *Thread) bool {
	s, err := procfs.Task(th.Pid, th.Tid).Stat()
	if err != nil {
		return errors.Is(err, &fault.Error{Code: fault.TargetGone})
	}
	return s.State == 'Z' || s.State == 'X'
}

// tracerOf returns the tracer's pid of a thread (TracerPid in proc_pid_status(5)), 0 if it has none.
func tracerOf(tid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "TracerPid:"); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(v)) // the kernel prints a number
			return n
		}
	}
	return 0
}

func listThreads(pid int) ([]int, error) {
	d, err := os.Open(fmt.Sprintf("/proc/%d/task", pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.New(fault.TargetGone, fmt.Sprintf("pid %d", pid), "it ended")
	}
	if err != nil {
		return nil, fmt.Errorf("list threads of pid %d: %w", pid, err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fault.New(fault.TargetGone, fmt.Sprintf("pid %d", pid), "list threads: %w", err)
	}
	tids := make([]int, 0, len(names))
	for _, name := range names {
		tid, err := strconv.Atoi(name)
		if err != nil {
			return nil, fmt.Errorf("list threads of pid %d: entry %q: %w", pid, name, err)
		}
		tids = append(tids, tid)
	}
	return tids, nil
}

// procLine and procWord read /proc for messages; "?" if that fails.
func procLine(tid int, name string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", tid, name))
	if err != nil || len(b) == 0 {
		return "?"
	}
	return strings.TrimSpace(string(b))
}

func procWord(tid int, name string, n int) string {
	words := strings.Fields(procLine(tid, name))
	if n >= len(words) {
		return "?"
	}
	return words[n]
}
