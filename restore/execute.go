package restore

import (
	"time"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/plan"
)

// Phases of a restore, in order.
const (
	phasePlan     = "plan"
	phaseCreate   = "create"
	phaseFiles    = "files"
	phaseSpace    = "space"
	phaseMemory   = "memory"
	phaseThreads  = "threads"
	phaseFinalise = "finalise"
	phaseRelease  = "release"
)

// action is how a step is done, and the phase that its time belongs to. What it makes it registers with the journal as
// it goes: a step that fails half-way leaves nothing either.
type action struct {
	phase string
	do    func(plan.Step) error
}

// execute does the steps of a plan in their order, until one fails.
func execute(steps []plan.Step, actions map[plan.Op]action, times *stopwatch) error {
	for _, s := range steps {
		a, ok := actions[s.Op]
		if !ok {
			return fault.New(fault.RestoreState, string(s.Op), "nobody knows how to do this step of the plan")
		}
		times.enter(a.phase)
		if err := a.do(s); err != nil {
			return err
		}
	}
	return nil
}

// stopwatch is how long each phase has taken; that of a phase that is entered twice adds up.
type stopwatch struct {
	phases map[string]int64 // microseconds
	phase  string           // under way, "" for none
	since  time.Time
}

func newStopwatch() *stopwatch { return &stopwatch{phases: map[string]int64{}} }

// enter ends the phase under way and begins another, unless it is the same; "" begins none.
func (w *stopwatch) enter(phase string) {
	if phase == w.phase {
		return
	}
	now := time.Now()
	if w.phase != "" {
		w.phases[w.phase] += now.Sub(w.since).Microseconds()
	}
	w.phase, w.since = phase, now
}
