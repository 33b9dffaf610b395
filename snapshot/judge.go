package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/holders"
	"github.com/bpfckpt/bpfckpt/internal/host"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// survey is what can be told of a running tree, which it does not stop or disturb.
type survey struct {
	st       *model.State
	host     *plan.Host
	refusals fault.List
	notes    []string
	lost     []string // those of notes about what an image does not hold, which the plan does not know of
}

// takeSurvey reads a running tree and asks the plan. With outside it also looks for those outside the tree who hold
// descriptors of it, which means to read those of every process there is.
func takeSurvey(
	ctx context.Context, at *view.View, src kstate.Source, root int, m members, outside bool, o plan.Options,
) (*survey, error) {
	got, live, err := collectRunning(ctx, src, root, m.live)
	if err != nil {
		return nil, interrupted(fmt.Errorf("read kernel state: %w", err))
	}
	v := &survey{st: &model.State{Root: root, Processes: got.Processes, Files: got.Files}, refusals: got.Blockers}
	if err := v.addDead(m.zombies); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(v.st.Processes, func(p model.Process) bool { return p.Pid == root && !p.Zombie }) {
		// It has ended since the tree was listed.
		return nil, cmp.Or(preflight(root), error(fault.New(fault.TreeMoves, pidName(root), "it is ending")))
	}
	if v.host, err = host.Read(at, v.st, o); err != nil {
		return nil, err
	}
	v.refusals = append(v.refusals, dirBlockers(at, v.st)...)
	in := fdtable.Input{State: v.st, View: at, Running: true, Brief: !outside}
	v.refusals = append(v.refusals, fdtable.Capture(ctx, in)...)
	if outside {
		if in.Holders, err = holdersOf(ctx, v.st, holders.Here(at)); err != nil {
			return nil, interrupted(err)
		}
		v.refusals = append(v.refusals, fdtable.Finish(ctx, in)...)
		v.refusals = append(v.refusals, plan.Shared(v.st, in.Holders)...)
	}
	if err := host.Look(at, v.st, v.host); err != nil {
		return nil, err
	}
	p := plan.Build(v.st, v.host, o)
	v.refusals = append(v.refusals, p.Refusals...)
	if !src.Tells().Sharing {
		v.refusals = append(v.refusals, undoBlockers(live)...)
	}
	v.refusals = plan.Distinct(v.refusals)
	v.refusals = still(root, live, v.refusals)
	v.lost = append(got.Notes, notSaved(at, v.st)...)
	v.notes = append(p.Notes, v.lost...)
	if outside {
		v.notes = append(v.notes, heldOutside(v.st)...)
	}
	return v, nil
}

// addDead adds to the state what the source does not tell of a tree: its zombies, and which sessions and groups have no
// leader.
func (v *survey) addDead(zombies []int) error {
	for _, pid := range zombies {
		switch z, err := zombieProcess(pid); {
		case isGone(err): // its parent has waited for it
		case err != nil:
			return err
		default:
			v.st.Processes = append(v.st.Processes, z)
		}
	}
	v.st.Leaderless = leaderless(v.st)
	return nil
}

// collectRunning asks the source for the state of a running tree. Processes that end meanwhile are left out; it returns
// the others, too.
func collectRunning(ctx context.Context, src kstate.Source, root int, live []int) (*kstate.Collected, []int, error) {
	for {
		got, err := src.Collect(ctx, live, nil)
		if err == nil {
			return got, live, addPolicies(got.Processes)
		}
		pid := subject(err)
		if !isGone(err) || pid == root || !slices.Contains(live, pid) {
			return got, live, err
		}
		// Others will have ended with it.
		m, err := splitMembers(slices.DeleteFunc(slices.Clone(live), func(p int) bool { return p == pid }))
		if err != nil {
			return nil, nil, err
		}
		live = m.live
	}
}

// still leaves out what is about processes that were live before we looked and have ended since: what came and went is
// in nobody's way. The root does not come and go.
func still(root int, live []int, list fault.List) fault.List {
	return slices.DeleteFunc(list, func(f *fault.Error) bool {
		pid := subject(f)
		if pid == root || !slices.Contains(live, pid) {
			return false
		}
		st, err := procfs.Pid(pid).Stat()
		return isGone(err) || err == nil && isZombie(&st)
	})
}

// secondLook is how long after a survey that found something in the way the next one is made: what was in the way may
// have been a child that came and went.
const secondLook = 30 * time.Millisecond

// judge refuses before anything is stopped what can be told of the running tree. It runs beside makeReady.
func (s *session) judge(ctx context.Context, m members) (*survey, error) {
	o := s.opts.plan(plan.Check)
	v, err := takeSurvey(ctx, s.tree.view, s.source.Source, s.tree.pid, m, false, o)
	if err != nil || len(v.refusals) > 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(secondLook):
		}
		if m, err = s.members(ctx); err != nil {
			return nil, err
		}
		if v, err = takeSurvey(ctx, s.tree.view, s.source.Source, s.tree.pid, m, false, o); err != nil {
			return nil, err
		}
	}
	if len(v.refusals) > 0 {
		return nil, allBlockers(ctx, s.tree.pid, s.opts.Policy, v.refusals)
	}
	return v, nil
}

// members lists the processes of the tree.
func (s *session) members(ctx context.Context) (members, error) {
	tree, err := findTree(s.tree.pid)
	if err != nil {
		return members{}, err
	}
	m, err := splitMembers(tree)
	if err == nil && len(m.refusals) > 0 {
		err = allBlockers(ctx, s.tree.pid, s.opts.Policy, m.refusals)
	}
	return m, err
}

// accept asks the plan about the state as a restore will read it. It is called before the image is published, and so
// before anything is killed.
func (s *session) accept(st *model.State) error {
	p := plan.Build(st, s.host, s.opts.plan(plan.Snap))
	s.res.Notes = append(s.res.Notes, p.Notes...)
	return p.Refusals.OrNil()
}

// plan is what the plan is to know of the options.
func (o *Options) plan(side plan.Side) plan.Options {
	return plan.Options{Side: side, Policy: o.Policy, Kill: o.Kill}
}
