package snapshot

import (
	"context"

	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/plan"
	"github.com/bpfckpt/bpfckpt/policy"
)

// Check tells, without stopping or disturbing anything, what would keep the tree of pid from being saved: all of it, in
// Report.Blockers, and what does without a watch in Report.Unseen. The error is for a pid that cannot be a target at
// all, and for an answer that could not be had. The policy is that of the restore that is to be possible.
func Check(ctx context.Context, pid int, pol policy.Policy) (Report, error) {
	r := Report{Pid: pid}
	if err := pol.Valid(); err != nil {
		return r, err
	}
	if err := preflight(pid); err != nil {
		return r, err
	}
	at, err := view.Own()
	if err != nil {
		return r, err
	}
	tree, err := findTree(pid)
	if err != nil {
		return r, err
	}
	m, err := splitMembers(tree)
	if err != nil {
		return r, err
	}
	r.Pids = tree
	around, err := readHostContext(at, pid)
	if err != nil {
		return r, err
	}
	r.Blockers = append(m.refusals, around.settledBlockers(m.live)...)
	unseen, err := newCodeSeen(at).blockers(m.live)
	if err != nil {
		return r, err
	}
	r.Unseen = unseen
	src, err := openSource(sources(), "")
	if err != nil {
		return r, err
	}
	defer src.Close()
	r.Source = src.Name()
	v, err := takeSurvey(ctx, at, src, pid, m, true, plan.Options{Side: plan.Check, Policy: pol})
	if err != nil {
		return r, err
	}
	r.Blockers, r.Notes = still(pid, m.live, plan.Distinct(append(r.Blockers, v.refusals...))), v.notes
	return r, nil
}
