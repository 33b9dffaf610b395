package restore

import (
	"fmt"
	"slices"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/stub"
	"github.com/bpfckpt/bpfckpt/plan"
)

// Sizes in bytes. The boot area is where our code, its records and their data lie while a process is being built.
const (
	pageSize   = image.PageSize
	minAddress = 0x10000 // vm.mmap_min_addr
	maxAddress = 1 << 47 // TASK_SIZE with four-level page tables
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
			var err error
			if p.boot, err = findHole(rec, plan.BootSize+plan.VDSORoom); err != nil {
				return nil, err
			}
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

// findHole returns an address where size bytes are free in the process to be and in the stub. It prefers low addresses: nothing
// grows down into them.
func findHole(rec *image.Process, size uint64) (uint64, error) {
	const room = 1 << 20 // keep away from neighbours, which may be grows-down
	taken := make([]image.Range, 0, len(rec.VMAs)+1)
	for i := range rec.VMAs {
		taken = append(taken, image.Range{Start: rec.VMAs[i].Start, End: rec.VMAs[i].End})
	}
	taken = append(taken, image.Range{Start: stub.CodeAt &^ (pageSize - 1), End: stub.CodeAt + pageSize})
	slices.SortFunc(taken, func(a, b image.Range) int {
		if a.Start < b.Start {
			return -1
		}
		return 1
	})
	at := uint64(minAddress)
	for _, t := range taken {
		if t.Start >= at && t.Start-at >= size+2*room {
			break
		}
		at = max(at, t.End)
	}
	if at+size+2*room > maxAddress {
		return 0, fault.New(fault.RestoreState, fmt.Sprintf("pid %d", rec.Pid), "its address space has no hole of %d bytes", size+2*room)
	}
	return at + room, nil
}
