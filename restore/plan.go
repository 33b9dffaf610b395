package restore

import (
	"fmt"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/plan"
)

const (
	pageSize   = image.PageSize
	maxAddress = plan.MaxAddress
)

// layout is what can be decided from the image alone: where in each process there is room, and in which order they are made.
type layout struct {
	procs  map[int]*procPlan // by pid
	births *plan.Births
}

// procPlan is the plan for one process.
type procPlan struct {
	rec  *image.Process
	boot uint64 // where the boot area goes: free in the process and in the stub
	park uint64 // where the vDSO waits while its place is made
}

func makePlan(st *image.State) (*layout, error) {
	pl := &layout{procs: map[int]*procPlan{}}
	for i := range st.Processes {
		rec := &st.Processes[i]
		p := &procPlan{rec: rec}
		if !rec.Zombie {
			at, ok := plan.BootPlace(rec)
			if !ok {
				return nil, fault.New(fault.RestoreState, fmt.Sprintf("pid %d", rec.Pid), "its address space has no room for the code that rebuilds it")
			}
			p.boot = at
			p.park = p.boot + plan.BootSize
		}
		pl.procs[rec.Pid] = p
		if rec.Pid == st.Root {
			continue
		}
		if _, ok := pl.procs[rec.PPid]; !ok {
			return nil, fault.New(fault.RestoreState, fmt.Sprintf("pid %d", rec.Pid), "its parent %d does not come before it in the image", rec.PPid)
		}
	}
	if len(st.Processes) == 0 || st.Processes[0].Pid != st.Root {
		return nil, fault.New(fault.RestoreState, "image", "the root process %d is not the first one", st.Root)
	}
	var err error
	pl.births, err = plan.MakeBirths(st)
	return pl, err
}
