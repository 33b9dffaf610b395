package snapshot

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// notSaved tells what of processes an image does not hold, where it is another than ours: a restored process has what
// the restore command has.
func notSaved(v *view.View, st *model.State) []string {
	var notes []string
	for _, a := range []struct{ file, what string }{
		{"cgroup", "control groups"},
		{"loginuid", "login user id of audit"},
		{"sessionid", "session of audit"},
	} {
		own, err := v.Mine().Read(a.file)
		if err != nil {
			continue // this kernel has none
		}
		var differ []string
		for i := range st.Processes {
			p := &st.Processes[i]
			if p.Zombie {
				continue
			}
			theirs, err := procfs.Pid(p.Pid).Read(a.file)
			if err == nil && !slices.Equal(theirs, own) {
				differ = append(differ, fmt.Sprintf("pid %d has %s", p.Pid, summary(string(theirs), string(own))))
			}
		}
		if len(differ) == 0 {
			continue
		}
		more := ""
		if n := len(differ) - 1; n > 0 {
			more = fmt.Sprintf(", and %d more have others than ours", n)
		}
		notes = append(notes, fmt.Sprintf("%s are not saved, %s%s: a restored process has those of the restore command",
			a.what, differ[0], more))
	}
	return notes
}

// summary is the lines of theirs that are not in own, on one line.
func summary(theirs, own string) string {
	known := strings.Split(own, "\n")
	var lines []string
	for line := range strings.Lines(theirs) {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(known, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, " ")
}
