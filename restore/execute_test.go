package restore

import (
	"errors"
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/plan"
)

// The steps are done in their order, each with its own record, and none after one that fails.
func TestExecuteStopsAtAFailure(t *testing.T) {
	broken := errors.New("broken")
	var have []int
	actions := map[plan.Op]action{
		plan.OpShmem: {phaseFiles, func(s plan.Step) error { have = append(have, s.Index); return nil }},
		plan.OpStub:  {phaseCreate, func(plan.Step) error { return broken }},
	}
	steps := []plan.Step{
		{Op: plan.OpShmem, Index: 2}, {Op: plan.OpShmem, Index: 1}, {Op: plan.OpStub}, {Op: plan.OpShmem, Index: 3},
	}
	if err := execute(steps, actions, newStopwatch()); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
	if want := []int{2, 1}; !slices.Equal(have, want) {
		t.Errorf("steps %v were done, want %v", have, want)
	}
	err := execute([]plan.Step{{Op: "dance"}}, actions, newStopwatch())
	if f := (*fault.Error)(nil); !errors.As(err, &f) || f.Code != fault.RestoreState || f.Object != "dance" {
		t.Errorf("a step that nobody knows: %v", err)
	}
}

// The time of a phase that is entered twice adds up, and what is between phases belongs to none.
func TestStopwatch(t *testing.T) {
	w := newStopwatch()
	for _, phase := range []string{phaseFiles, phaseFiles, phaseCreate, phaseFiles, "", phaseRelease, ""} {
		w.enter(phase)
		w.since = w.since.Add(-time.Second) // as if it were a second later
	}
	want := []string{phaseCreate, phaseFiles, phaseRelease}
	if have := slices.Sorted(maps.Keys(w.phases)); !slices.Equal(have, want) {
		t.Errorf("phases %q", have)
	}
	for phase, seconds := range map[string]int64{phaseFiles: 3, phaseCreate: 1, phaseRelease: 1} {
		if have := w.phases[phase] / 1e6; have != seconds {
			t.Errorf("%s took %d s, want %d", phase, have, seconds)
		}
	}
}

// Everything that a step of a plan can be has an action, and no action is for anything else.
func TestEveryStepHasAnAction(t *testing.T) {
	source, err := os.ReadFile("../plan/steps.go")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the guests of the kernel matrix have no source of other packages; the host runs this")
	}
	if err != nil {
		t.Fatal(err)
	}
	st := imagetest.State()
	m := newMade(newJournal(t), ownView(t), nil, st, Options{}, &plan.Plan{}, false)
	actions := m.actions(newJournal(t), st, "")
	ops := regexp.MustCompile(`(?m)^\tOp\w+\s+Op = "([^"]+)"`).FindAllSubmatch(source, -1)
	for _, op := range ops {
		if actions[plan.Op(op[1])].do == nil {
			t.Errorf("nothing does %q", op[1])
		}
	}
	if len(ops) != len(actions) {
		t.Errorf("%d actions for %d kinds of steps", len(actions), len(ops))
	}
}

// A step inside a process that is not made yet is an error, not a crash.
func TestStepBeforeItsProcess(t *testing.T) {
	tr := &tree{byPid: map[int]*process{7: {pid: 70}}}
	var in []int
	do := tr.inside(func(p *process) error { in = append(in, p.pid); return nil })
	if err := do(plan.Step{Pid: 7}); err != nil || !slices.Equal(in, []int{70}) {
		t.Errorf("done in %v: %v", in, err)
	}
	err := do(plan.Step{Pid: 8, Text: "x"})
	if !errors.Is(err, &fault.Error{Code: fault.RestoreState}) || len(in) != 1 {
		t.Errorf("done in %v: %v", in, err)
	}
}
