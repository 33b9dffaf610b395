package restore

import (
	"context"
	"fmt"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// journal is what one restore has done so far: how many operations, what takes them back, what its end closes, and
// what there is to say of them. All that makes something writes to the same one. It belongs to one goroutine.
type journal struct {
	ctx   context.Context
	fail  int // Options.FailStep
	steps int
	undo  []func() // takes back what failed
	end   []func() // closes what is needed no longer, failed or not
	notes []string
}

// step counts an operation and makes it fail if that is asked for. Every operation that changes anything outside this
// process calls it first.
func (j *journal) step(what string) error {
	if err := j.ctx.Err(); err != nil {
		return err
	}
	j.steps++
	if j.steps == j.fail {
		return fault.New(fault.RestoreStep, "restore", "step %d (%s) was told to fail", j.steps, what)
	}
	return nil
}

// onUndo registers what takes back an operation if the restore fails later; the last registered runs first.
func (j *journal) onUndo(f func()) { j.undo = append(j.undo, f) }

// onEnd registers what closes something at the end of the restore, failed or not; the last registered runs first.
func (j *journal) onEnd(f func()) { j.end = append(j.end, f) }

// note adds a line for the user.
func (j *journal) note(format string, args ...any) {
	j.notes = append(j.notes, fmt.Sprintf(format, args...))
}

// rollback takes everything back.
func (j *journal) rollback() {
	undo := j.undo
	j.undo = nil
	runBackwards(undo)
	j.close()
}

// close closes what is needed no longer. What was made stays.
func (j *journal) close() {
	end := j.end
	j.end = nil
	runBackwards(end)
}

func runBackwards(list []func()) {
	for _, f := range slices.Backward(list) {
		f()
	}
}
