package plan

import (
	"fmt"

	"github.com/bpfckpt/bpfckpt/model"
)

// threadChildNotes tells of processes with a parent-death signal that are children of a thread other than the first:
// they are made again before the threads are, and so become children of the first.
func threadChildNotes(st *model.State) (notes []string) {
	for i := range st.Processes {
		p := &st.Processes[i]
		for j := range p.Threads {
			if p.ParentTid != 0 && p.Threads[j].PDeathSig != 0 {
				notes = append(notes, fmt.Sprintf("pid %d is to get signal %d when thread %d of pid %d ends; "+
					"after a restore it gets it when the first thread does", p.Pid, p.Threads[j].PDeathSig, p.ParentTid, p.PPid))
				break
			}
		}
	}
	return notes
}
