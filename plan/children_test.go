package plan

import (
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// Whoever is told of the end of a thread, and will be told of that of another, is noted; others are not.
func TestThreadChildNotes(t *testing.T) {
	process := func(tid, signal int) *model.State {
		return &model.State{Processes: []model.Process{
			{Pid: 5, Threads: []model.Thread{{Tid: 5}, {Tid: 6}}},
			{Pid: 9, PPid: 5, ParentTid: tid, Threads: []model.Thread{{Tid: 9, PDeathSig: signal}}},
		}}
	}
	for _, c := range []struct {
		st   *model.State
		want string
	}{
		{process(6, 15), "pid 9 is to get signal 15 when thread 6 of pid 5 ends"}, {process(6, 0), ""}, {process(0, 15), ""},
	} {
		notes := strings.Join(threadChildNotes(c.st), "\n")
		if !strings.Contains(notes, c.want) || c.want == "" && notes != "" {
			t.Errorf("the notes are %q, want %q", notes, c.want)
		}
	}
}
