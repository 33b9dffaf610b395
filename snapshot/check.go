package snapshot

import (
	"context"
	"fmt"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/image"
)

// Check tells, without stopping or disturbing anything, what would keep the tree of pid from being saved: all of it, in
// Report.Blockers, and what does without a watch in Report.Unseen. The error is for a pid that cannot be a target at all, and for an answer that could not be had.
func Check(ctx context.Context, pid int) (Report, error) {
	r := Report{Pid: pid}
	if err := preflight(pid); err != nil {
		return r, err
	}
	tree, err := findTree(pid)
	if err != nil {
		return r, err
	}
	live, _, err := splitZombies(tree)
	if err != nil {
		return r, err
	}
	r.Pids = tree
	around, err := readSurroundings(pid)
	if err != nil {
		return r, err
	}
	r.Blockers = around.settledBlockers(live)
	unseen, err := newCodeSeen().blockers(live)
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
	got, err := src.Collect(ctx, live, nil)
	if err != nil {
		return r, interrupted(fmt.Errorf("read kernel state: %w", err))
	}
	st := &image.State{Root: pid, Processes: got.Processes, Files: got.Files}
	r.Blockers = append(r.Blockers, got.Blockers...)
	r.Blockers = append(r.Blockers, stateBlockers(st)...)
	r.Blockers = append(r.Blockers, dirBlockers(st)...)
	r.Blockers = append(r.Blockers, exeBlockers(st)...)
	in := fdtable.Input{State: st, Running: true}
	r.Blockers = append(r.Blockers, fdtable.Capture(ctx, in)...)
	r.Blockers = append(r.Blockers, fdtable.Finish(ctx, in)...)
	outside, err := sharedBlockers(ctx, st)
	if err != nil {
		return r, interrupted(err)
	}
	r.Blockers = append(r.Blockers, outside...)
	r.Blockers = distinct(append(r.Blockers, undoBlockers(src, live)...))
	r.Notes = cpuClockNotes(st)
	return r, nil
}
