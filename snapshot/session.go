package snapshot

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/collector"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/holders"
	"github.com/bpfckpt/bpfckpt/internal/lazy"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/procid"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
	"github.com/bpfckpt/bpfckpt/policy"
)

// session is one snapshot under way.
type session struct {
	tree *tree
	opts Options
	res  *Result

	around *hostContext
	host   *plan.Host // what the plan has to know of this machine
	source *stateSource
	writer *image.Writer
	arena  *arena

	frozen   bool // the last freeze has begun
	st       *model.State
	contents contents
	code     codeFiles
	memory   *memoryCopy // nil before the memory is copied
	exclude  excluder

	looked *codeSeen // nil if regions are seen, or are to be ignored

	track    tracking
	forked   *forked
	calm     func()    // ends the hurry of the freeze; more than once does no harm
	throttle *throttle // nil before pre-copy
	pre      *precopy  // the same
	live     []int     // the tree as it was before the freeze
	own      holders.Own
	progress progress
}

func newSession(pid int, o Options) *session {
	return &session{
		tree: &tree{pid: pid, maxFreeze: o.MaxFreeze}, source: &stateSource{lent: o.Live}, opts: o,
		res: &Result{Tracking: "none"}, progress: progress{tell: o.Progress}, calm: func() {},
	}
}

// close undoes whatever is still in place: threads run, the unfinished image goes, memory is given back. It runs on
// every way out, a panic included.
func (s *session) close() {
	s.throttle.release()
	s.track.close()
	s.tree.close()
	s.source.detach()
	if s.writer != nil {
		s.writer.Abort() // harmless after Commit
	}
	if s.arena != nil {
		s.arena.free()
	}
	s.source.close()
	s.contents.close()
	s.code.close()
}

// hurry has this goroutine run before others, and the garbage collector wait, until calm is called: while a process
// stands still for us. calm must be called by the same goroutine; more than once does no harm.
func hurry() (calm func()) {
	resume := collector.Hold()
	slow := ptrace.Hurry()
	return sync.OnceFunc(func() {
		slow()
		resume()
	})
}

// timed adds how long f takes to *us.
func timed(us *int64, f func() error) error {
	start := time.Now()
	defer func() { *us += time.Since(start).Microseconds() }()
	return f()
}

// prepare does everything that needs no stopped target.
func (s *session) prepare(ctx context.Context) error {
	m, err := s.begin(ctx)
	if err != nil {
		return err
	}
	var both errgroup.Group
	var v *survey
	both.Go(func() (err error) {
		if err = s.source.open(); err == nil {
			v, err = s.judge(ctx, m)
		}
		return err
	})
	both.Go(func() error { return s.makeReady(m.live) })
	if err := both.Wait(); err != nil {
		return err
	}
	s.host, s.res.Notes = v.host, append(s.res.Notes, v.lost...)
	s.source.beginWaits(s.tree.tracer)
	s.live = m.live
	return ctx.Err()
}

// makeReady makes what a snapshot needs beside the source: the tracker, buffers, the image, the tracing thread.
func (s *session) makeReady(live []int) error {
	parent, err := s.chooseTracking(live)
	if err != nil {
		return err
	}
	if s.forked, err = findForked(live); err != nil {
		return err
	}
	if s.track.tr == nil { // without pre-copy it is known now whether it would take too long
		if err := s.reserve(live, 0); err != nil {
			return err
		}
	}
	if err := s.create(parent); err != nil {
		return err
	}
	s.tree.tracer = ptrace.New()
	s.tree.tracer.Hurry()
	return nil
}

// prepareSource gets the source ready as the last thing before the freeze, and asks it for its breakpoints.
func (s *session) prepareSource(ctx context.Context) error {
	if err := s.source.prepare(ctx); err != nil {
		return err
	}
	s.tree.tracer.Foresee(s.live)
	return s.code.learn(ctx, s.source)
}

// begin finds the tree, refuses what can be refused by a look at its processes from outside, and starts to open the
// source.
func (s *session) begin(ctx context.Context) (m members, err error) {
	if err := preflight(s.tree.pid); err != nil {
		return m, err
	}
	if s.exclude, err = newExcluder(s.opts.Exclude); err != nil {
		return m, err
	}
	s.source.begin(s.opts.Source)
	tree, err := findTree(s.tree.pid)
	if err != nil {
		return m, err
	}
	if err := lazy.Settle(ctx, tree); err != nil {
		return m, err
	}
	if m, err = s.members(ctx); err != nil {
		return m, err
	}
	root, err := procfs.Pid(s.tree.pid).Stat()
	if err != nil {
		return m, err
	}
	if s.tree.view, err = view.Own(); err != nil {
		return m, err
	}
	s.tree.ids = map[int]procid.ID{s.tree.pid: s.tree.view.ID(s.tree.pid, root.StartTime)}
	if meant := s.opts.Root; meant != (procid.ID{}) && !meant.Is(s.tree.ids[s.tree.pid]) {
		return m, anotherProcess(s.tree.pid)
	}
	if s.around, err = readHostContext(s.tree.view, s.tree.pid); err != nil {
		return m, err
	}
	var unseen fault.List
	if !s.opts.IgnoreRegions && s.opts.holder() == nil {
		s.looked = newCodeSeen(s.tree.view)
		if unseen, err = s.looked.blockers(m.live); err != nil {
			return m, err
		}
	}
	if list := still(s.tree.pid, m.live, append(s.around.settledBlockers(m.live), unseen...)); len(list) > 0 {
		return m, allBlockers(ctx, s.tree.pid, s.opts.Policy, list)
	}
	s.own = holders.Here(s.tree.view)
	s.st = &model.State{Root: s.tree.pid}
	if s.st.Kernel, err = readKernel(s.tree.view); err != nil {
		return m, err
	}
	s.st.Kernel.PidNS = s.tree.view.PidNS
	return m, nil
}

// allBlockers completes a list of blockers with what only a look at the whole tree tells.
func allBlockers(ctx context.Context, pid int, p policy.Policy, list fault.List) error {
	if r, err := Check(ctx, pid, p); err == nil {
		list = plan.Distinct(append(list, r.Blockers...))
	}
	return list.OrNil()
}

// Shares of memory for the copy.
const (
	estimateSlack = 2 << 20 // bytes beyond the estimate that are made ready
	// per KiB of memory, a slow guess: one process_vm_readv pass at 165 ms/GiB
	freezePerByte = 165 * time.Millisecond / (1 << 20)
)

// reserve gets the buffers for the copy ready: for all memory of pids, and for what others are expected to write before
// the freeze.
func (s *session) reserve(pids []int, rest int64) error {
	need, err := estimate(pids)
	if err != nil {
		return err
	}
	need = max(0, need-s.forked.bytes(pids))
	if err := tooMuch(s.tree.pid, need+rest, s.res.Rounds, s.opts.MaxFreeze); err != nil {
		return err
	}
	s.progress.expected = s.progress.done + need + rest
	if s.track.tr != nil {
		need += min(rest+rest/4+restSlack, restArena)
	}
	free, err := memoryAvailable()
	if err != nil {
		return err
	}
	// What does not fit is written while the tree stands still: slower, never wrong.
	ready := min(need+need/16+estimateSlack, free/2)
	room := 2 * ready
	if s.track.tr != nil {
		// A program may write much between the last round and the freeze, a garbage collector above all. Pages that are
		// not present yet cost a fault each under the freeze, and nothing if they are not needed; to encode what has no
		// room costs far more.
		room = max(room, ready+restArena)
	}
	s.arena, err = newArena(int(ready), int(max(ready, min(room, free/2))))
	return err
}

// collect reads everything but memory from the stopped tree, and lists all that cannot be saved.
func (s *session) collect(ctx context.Context) error {
	ph := &s.res.Phases
	list, err := s.collectSettled(ctx)
	if err != nil {
		return err
	}
	if err := timed(&ph.FDs, func() error {
		for _, b := range fdtable.Capture(ctx, fdtable.Input{State: s.st, View: s.tree.view}) {
			list = append(list, b)
		}
		id := newIdentifier(s.tree.view, s.st)
		defer func() { s.contents = id.contents }()
		err := id.identify()
		list = append(list, id.blockers...)
		list = append(list, dirBlockers(s.tree.view, s.st)...)
		return err
	}); err != nil && len(list) == 0 {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return plan.Distinct(list).OrNil()
}

// settleTries is how often the state is read until no timer runs out while it is. A timer whose signal is pending adds
// no other: it takes more than one try only where several run out one after the other.
const settleTries = 4

// collectSettled reads the state, again if a timer ran out between the reading of what is pending and that of the
// timers: they run on while the tree stands still. Such a timer would be seen as one that has done its work, and its
// signal not at all.
func (s *session) collectSettled(ctx context.Context) (list fault.List, err error) {
	ph := &s.res.Phases
	for try := 1; ; try++ {
		var all []told
		if err := timed(&ph.Regs, func() (err error) {
			all, err = readThreads(s.tree.group)
			return err
		}); err != nil {
			return nil, err
		}
		ranOut := false
		if err := timed(&ph.State, func() error {
			if list, err = s.collectState(ctx, all); err == nil && try < settleTries {
				ranOut, err = timersRanOut(s.tree.group, s.st.Processes, all)
			}
			return err
		}); err != nil || !ranOut {
			return list, err
		}
	}
}

// collectState asks the source and ptrace's answers for everything but descriptors.
func (s *session) collectState(ctx context.Context, all []told) (fault.List, error) {
	got, err := s.source.Collect(ctx, s.tree.pids, s.tree.group)
	if err != nil {
		return nil, fmt.Errorf("read kernel state: %w", err)
	}
	s.res.Table = Table{Source: s.source.Name(), Events: got.Events, Lost: got.Lost, Drift: got.Drift}
	s.st.Processes, s.st.Files = got.Processes, got.Files
	s.res.Notes = append(s.res.Notes, unsure(&got.Held)...)
	withoutTracking(s.st)
	for _, pid := range s.tree.zombies {
		z, err := zombieProcess(pid)
		if err != nil {
			return nil, err
		}
		s.st.Processes = append(s.st.Processes, z)
	}
	if err := addScheduling(s.st.Processes); err != nil {
		return nil, err
	}
	if err := addPolicies(s.st.Processes); err != nil {
		return nil, err
	}
	list := slices.Clone(got.Blockers)
	more, err := mergeThreads(s.st.Processes, all)
	if err != nil {
		return nil, err
	}
	list = append(list, more...)
	list = append(list, plan.Build(s.st, nil, plan.Options{Side: plan.Snap}).Refusals...)
	list = append(list, s.around.frozenBlockers(s.source.Tells(), s.tree.pids)...)
	root := slices.IndexFunc(s.st.Processes, func(p model.Process) bool { return p.Pid == s.tree.pid })
	if root < 0 {
		return nil, fmt.Errorf("source %s says nothing about pid %d", s.source.Name(), s.tree.pid)
	}
	return list, s.around.readMoment(&s.st.Kernel, &s.st.Processes[root])
}
