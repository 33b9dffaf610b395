package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/internal/carry"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/host"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// Snap saves the tree of processes below and including pid to an image.
//
// The tree stands still only while its state is read; with Stop or Kill until the image is published. If anything
// fails, it runs on as if nothing had happened, and no part of an image stays. Errors are *Error, or a fault.List of
// them if several things keep the tree from being saved; when ctx ends early it is fault.Interrupt.
func Snap(ctx context.Context, pid int, o Options) (*Result, error) {
	start := time.Now()
	r, err := snapInTime(ctx, pid, o)
	if o.Incremental && errors.Is(err, &fault.Error{Code: fault.StoreParent}) {
		// It has executed another program after the first of its pages were taken from the parent.
		cause := err
		o.Incremental = false
		if r, err = snapInTime(ctx, pid, o); err == nil {
			r.Notes = append(r.Notes, fmt.Sprintf("the image is a full one: %v", cause))
		}
	}
	if r != nil {
		r.WallUS = time.Since(start).Microseconds()
	}
	return r, err
}

// freezeAttempts is how many freezes may last longer than Options.MaxFreeze, and be given up, before the snapshot is.
const freezeAttempts = 3

// snapInTime tries again when a freeze was given up because it lasted too long: what should have fitted may have met a
// busy moment of the machine. So it does when a process below the root ended while it stood still, which only SIGKILL
// does: without it the tree is as savable as before.
func snapInTime(ctx context.Context, pid int, o Options) (*Result, error) {
	for attempt := 1; ; attempt++ {
		r, overran, err := snapOnce(ctx, pid, o)
		if !overran && !onlyBelow(pid, err) || attempt == freezeAttempts || ctx.Err() != nil {
			return r, err
		}
	}
}

// onlyBelow tells whether a snapshot failed because a process has ended that is not the root.
func onlyBelow(root int, err error) bool {
	if !isGone(err) || subject(err) == root {
		return false
	}
	st, err := procfs.Pid(root).Stat()
	return err == nil && !isZombie(&st)
}

// snapOnce is one attempt of Snap. It also reports whether it was given up because the freeze lasted too long.
func snapOnce(ctx context.Context, pid int, o Options) (r *Result, overran bool, err error) {
	t, err := Begin(pid, o)
	if err != nil {
		return nil, false, err
	}
	defer t.Abort()
	for _, phase := range []func(context.Context) error{t.Prepare, t.Freeze, t.Capture} {
		if err := phase(ctx); err != nil {
			return nil, t.s.frozen && errors.Is(err, &fault.Error{Code: fault.MaxFreeze}), err
		}
	}
	r, err = t.Commit(ctx)
	return r, false, err
}

// thaw lets the tree run on, if it stands still, and ends the time of the freeze.
func (s *session) thaw() error {
	if s.tree.group == nil {
		return nil
	}
	err := timed(&s.res.Phases.Thaw, func() error { return s.tree.group.Thaw() })
	s.res.FreezeUS = time.Since(s.tree.frozenAt).Microseconds()
	s.tree.group = nil
	s.track.close()
	if err != nil {
		return fault.New(fault.Ptrace, pidName(s.tree.pid), "let it go: %w", err)
	}
	return nil
}

// complete adds to the state what needs no freeze, but a tree that still lives.
func (s *session) complete(ctx context.Context) error {
	if err := s.looked.late(s.st.Processes, &s.code); err != nil {
		return err
	}
	// those that came last; if the watch has ended since, what was known before the freeze has to do
	_ = s.code.learn(ctx, s.source)

	held, err := holdersOf(ctx, s.st, s.own)
	if err != nil {
		return err
	}
	// First: it tells which streams are re-attached.
	blockers := fdtable.Finish(ctx, fdtable.Input{State: s.st, View: s.tree.view, Holders: held})
	list, err := s.sharedOutside(held)
	if err != nil {
		return err
	}
	for _, b := range blockers {
		list = append(list, b)
	}
	if err := list.OrNil(); err != nil {
		return err
	}
	addBuildIDs(s.st)
	s.st.Leaderless = leaderless(s.st)
	if s.opts.Kill {
		s.res.Notes = append(s.res.Notes, heldOutside(s.st)...)
	}
	if err := host.Look(s.tree.view, s.st, s.host); err != nil {
		return err
	}
	s.st.Facts = s.host.Facts
	for i := range s.st.Processes {
		p := &s.st.Processes[i]
		if p.Zombie {
			continue
		}
		p.Start = s.tree.ids[p.Pid].Start
		rec, ok, err := carry.Get(s.tree.view, s.tree.ids[p.Pid])
		if err != nil {
			return err
		}
		if ok {
			p.Carried = rec.Usage
		}
	}
	return nil
}

// finish stops or kills the tree, if that was asked for, and lets go of it. The image is published.
func (s *session) finish() error {
	if s.tree.group == nil {
		return nil
	}
	sig := unix.SIGSTOP
	if s.opts.Kill {
		sig = unix.SIGKILL
	}
	// A stopped thread gets the signal before it returns to its program: not one more instruction of it runs.
	var errs []error
	for _, pid := range s.tree.pids {
		if sig == unix.SIGSTOP && jobStopped(s.st, pid) {
			continue // a second stop signal would stay pending
		}
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fault.New(fault.Signal, pidName(pid), "%v: %w", sig, err))
		}
	}
	err := s.thaw()
	if s.opts.Kill {
		err = nil // a thread that is dying cannot be detached and need not be
		errs = append(errs, awaitEnd(s.tree.pids))
	}
	return errors.Join(append(errs, err)...)
}

// jobStopped tells whether a process was in a job-control stop at the freeze.
func jobStopped(st *model.State, pid int) bool {
	return slices.ContainsFunc(st.Processes, func(p model.Process) bool { return p.Pid == pid && p.Stopped != 0 })
}

// endTimeout is how long killed processes may take to end.
const endTimeout = 5 * time.Second

// awaitEnd waits until every process has ended: until it is a zombie, or reaped. Then its pid is as free as its parent
// lets it be.
func awaitEnd(pids []int) error {
	end := time.Now().Add(endTimeout)
	for _, pid := range pids {
		for {
			st, err := procfs.Pid(pid).Stat()
			if err != nil || isZombie(&st) {
				break
			}
			if time.Now().After(end) {
				return fault.New(fault.Signal, pidName(pid), "it was killed and has not ended after %v", endTimeout)
			}
			time.Sleep(200 * time.Microsecond)
		}
	}
	return nil
}
