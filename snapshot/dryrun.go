package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/host"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/plan"
)

// PlanReport is the answer of Plan.
type PlanReport struct {
	Pid      int
	Pids     []int // the processes of the tree, parents before their children
	FreezeUS int64 // how long it stood still, microseconds
	Plan     *plan.Plan
}

// Plan stops the tree of pid as Snap does, reads all of its state but memory, lets it run on, and tells what a restore
// of it would do here, and everything that stands in the way. Nothing is written. The options that say how memory is
// saved have no meaning. The error is for a pid that cannot be a target at all, and for an answer that could not be
// had.
func Plan(ctx context.Context, pid int, o Options) (*PlanReport, error) {
	if err := o.Policy.Valid(); err != nil {
		return nil, err
	}
	s := newSession(pid, o)
	defer s.close()
	r := &PlanReport{Pid: pid, Plan: &plan.Plan{}}
	refusals, err := s.dryRun(ctx, r)
	if err != nil {
		return nil, interrupted(err)
	}
	r.FreezeUS = s.res.FreezeUS
	r.Plan.Refusals = plan.Distinct(append(refusals, r.Plan.Refusals...))
	return r, nil
}

// dryRun goes through the phases of a snapshot that read. It returns what keeps the tree from being saved.
func (s *session) dryRun(ctx context.Context, r *PlanReport) (fault.List, error) {
	m, err := s.begin(ctx)
	if err != nil {
		return refusalsOf(err)
	}
	r.Pids = m.live
	if err = s.source.open(); err != nil {
		return nil, err
	}
	pol := s.opts.plan(plan.Snap)
	if s.host, err = host.Read(s.tree.view, s.st, pol); err != nil {
		return nil, err
	}
	s.tree.tracer = ptrace.New()
	s.live = m.live
	if err := s.prepareSource(ctx); err != nil {
		return nil, err
	}
	err = s.freezeOutside(ctx)
	thawed := s.thaw()
	s.calm()
	list, err := refusalsOf(errors.Join(err, thawed))
	if err != nil {
		return nil, err
	}
	r.Pids = nil
	for i := range s.st.Processes {
		r.Pids = append(r.Pids, s.st.Processes[i].Pid)
	}
	if len(list) > 0 { // the state is not whole: what the plan would say of it is not what it will say
		r.Plan.Notes = append(r.Plan.Notes,
			"what else a restore would do is told when nothing stands in the way of the snapshot")
		return list, nil
	}
	if list, err = refusalsOf(s.complete(ctx)); err != nil || len(list) > 0 {
		return list, err
	}
	number(s.st, s.track.spaces)
	r.Plan = plan.Build(s.st, s.host, pol)
	return nil, nil
}

// refusalsOf separates what keeps a tree from being saved from what went wrong.
func refusalsOf(err error) (fault.List, error) {
	if err == nil {
		return nil, nil
	}
	var list fault.List
	if errors.As(err, &list) {
		for _, e := range list {
			if e.Class() != fault.Unsupported {
				return nil, err
			}
		}
		return list, nil
	}
	var one *fault.Error
	if errors.As(err, &one) && one.Class() == fault.Unsupported {
		return fault.List{one}, nil
	}
	return nil, fmt.Errorf("plan: %w", err)
}
