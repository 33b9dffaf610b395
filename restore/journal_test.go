package restore

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/view"
)

func newJournal(t *testing.T) *journal {
	t.Helper()
	return &journal{ctx: t.Context()}
}

func ownView(t *testing.T) *view.View {
	t.Helper()
	v, err := view.Own()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What was made last is taken back first, all of it before anything is closed, and none of it twice.
func TestRollbackRunsBackwardsAndOnce(t *testing.T) {
	j := newJournal(t)
	var have []string
	do := func(what string) func() { return func() { have = append(have, what) } }
	j.onUndo(do("undo 1"))
	j.onEnd(do("end 1"))
	j.onUndo(do("undo 2"))
	j.onEnd(do("end 2"))
	j.rollback()
	j.rollback()
	if want := []string{"undo 2", "undo 1", "end 2", "end 1"}; !slices.Equal(have, want) {
		t.Errorf("ran %q, want %q", have, want)
	}
}

// A failure after the end, while processes are let go, takes back what was made and closes nothing again.
func TestRollbackAfterClose(t *testing.T) {
	j := newJournal(t)
	undone, closed := 0, 0
	j.onUndo(func() { undone++ })
	j.onEnd(func() { closed++ })
	j.close()
	if undone != 0 || closed != 1 {
		t.Errorf("close has undone %d and closed %d", undone, closed)
	}
	j.rollback()
	if undone != 1 || closed != 1 {
		t.Errorf("after it the rollback has undone %d and closed %d", undone, closed)
	}
}

func TestStepThatIsToFail(t *testing.T) {
	j := newJournal(t)
	j.fail = 2
	for n, want := range []bool{true, false, true} {
		err := j.step("make it")
		if (err == nil) != want {
			t.Errorf("step %d: %v", n+1, err)
		}
		if err != nil && !errors.Is(err, &fault.Error{Code: fault.RestoreStep}) {
			t.Errorf("step %d: %v has another code", n+1, err)
		}
	}
	if j.steps != 3 {
		t.Errorf("%d steps were counted, not 3", j.steps)
	}
}

// A step does not begin after its context has ended, and does not count.
func TestNoStepAfterTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	j := &journal{ctx: ctx}
	cancel()
	if err := j.step("make it"); !errors.Is(err, context.Canceled) || j.steps != 0 {
		t.Errorf("%v after %d steps", err, j.steps)
	}
}
