package snapshot

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/procid"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/view"
)

// Bounds of the freeze.
const (
	stopTimeout  = 500 * time.Millisecond // for all threads to stop
	stopAttempts = 4
	stopPause    = 30 * time.Millisecond // before the second attempt, twice as long before the third
	treeRounds   = 20                    // for the tree to hold still
)

// tree is the processes that are saved, stopped at a moment when no member of it runs.
type tree struct {
	pid       int            // of the root
	maxFreeze time.Duration  // Options.MaxFreeze
	tracer    *ptrace.Tracer // nil until a freeze is near

	group    *ptrace.Group // nil while nothing is stopped
	frozenAt time.Time
	pids     []int // the tree as it was stopped, parents first
	zombies  []int
	view     *view.View        // from which ids name them
	ids      map[int]procid.ID // names of the processes, to tell them from later ones with the same pid
}

// freeze stops every thread of the tree. What keeps a thread from stopping may pass: a page that is being read, a
// parent in vfork(2) whose child has not called execve yet. The tree is not held for that: everything runs on, and
// after a pause it is tried again.
func (t *tree) freeze(ctx context.Context) error {
	timeout := stopTimeout
	if t.maxFreeze > 0 {
		timeout = min(timeout, t.maxFreeze)
	}
	for attempt := 1; ; attempt++ {
		t.group, t.pids, t.frozenAt = nil, nil, time.Now()
		err := t.freezeAll(ctx, timeout)
		if f := new(fault.Error); timeout < stopTimeout && attempt == stopAttempts && errors.As(err, &f) &&
			f.Code == fault.Freeze {
			return fault.New(fault.MaxFreeze, f.Object, "%s", f.Cause)
		}
		if err == nil || attempt == stopAttempts || ctx.Err() != nil ||
			!errors.Is(err, &fault.Error{Code: fault.Freeze}) && !isGone(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(attempt) * stopPause):
		}
	}
}

// freezeAll stops the tree, again and again until it has no member that runs. After an error nothing is stopped.
func (t *tree) freezeAll(ctx context.Context, timeout time.Duration) error {
	for range treeRounds {
		tree, err := findTree(t.pid)
		if err != nil {
			return errors.Join(err, t.letGo())
		}
		m, err := splitMembers(tree)
		if err == nil {
			err = m.refusals.OrNil()
		}
		if err != nil {
			return errors.Join(err, t.letGo())
		}
		live := m.live
		if !slices.Contains(live, t.pid) {
			return errors.Join(fault.New(fault.TargetGone, pidName(t.pid), "it ended"), t.letGo())
		}
		fresh := slices.DeleteFunc(slices.Clone(live), func(pid int) bool { return slices.Contains(t.pids, pid) })
		if t.group != nil && len(fresh) == 0 {
			t.pids, t.zombies = live, m.zombies
			return t.sameProcesses()
		}
		if err := t.stop(ctx, fresh, timeout); err != nil {
			return err
		}
		for _, pid := range fresh {
			if len(t.group.Of(pid)) > 0 { // else it has ended, and its pid may soon be another's
				t.pids = append(t.pids, pid)
			}
		}
	}
	return errors.Join(fault.New(fault.TreeMoves, pidName(t.pid), "processes were still appearing after %d rounds",
		treeRounds), t.letGo())
}

// letGo thaws whatever is stopped.
func (t *tree) letGo() error {
	if t.group == nil {
		return nil
	}
	g := t.group
	t.group = nil
	return g.Thaw()
}

// stop freezes more processes. After an error nothing is frozen.
func (t *tree) stop(ctx context.Context, pids []int, timeout time.Duration) (err error) {
	if t.group != nil {
		if err = t.group.Add(ctx, pids, timeout); err != nil {
			t.group = nil
		}
		return err
	}
	t.group, err = t.tracer.Freeze(ctx, pids, timeout)
	return err
}

// sameProcesses notes who was stopped, and makes sure that the root is still who it was.
func (t *tree) sameProcesses() error {
	before, known := t.ids[t.pid]
	t.ids = map[int]procid.ID{}
	for _, pid := range t.pids {
		st, err := procfs.Pid(pid).Stat()
		if err != nil {
			return err
		}
		t.ids[pid] = t.view.ID(pid, st.StartTime)
	}
	if known && before != t.ids[t.pid] {
		return anotherProcess(t.pid)
	}
	return nil
}

func anotherProcess(pid int) error {
	return fault.New(fault.TargetGone, pidName(pid), "it ended, and another process has its pid now")
}

// close lets go of the tree, if it stands still, and of the thread that stopped it.
func (t *tree) close() {
	if t.tracer == nil {
		return
	}
	if t.group != nil {
		_ = t.group.Thaw() // the end of the tracing thread detaches what is left
	}
	t.tracer.Close()
}

// overdue gives up when the freeze has lasted as long as it may.
func (t *tree) overdue() error {
	took := time.Since(t.frozenAt)
	if t.maxFreeze == 0 || took <= t.maxFreeze {
		return nil
	}
	return fault.New(fault.MaxFreeze, pidName(t.pid), "reading its state took %v", took.Round(time.Microsecond))
}
