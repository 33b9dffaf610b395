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
	procs map[int]*procPlan // by pid
}

// procPlan is the plan for one process.
type procPlan struct {
	rec    *image.Process
	boot   uint64 // where the boot area goes: free in the process and in the stub
	park   uint64 // where the vDSO waits while its place is made
	before []int  // children to make before the process makes its session
	after  []int  // children to make after that
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
		parent, ok := pl.procs[rec.PPid]
		if !ok {
			return nil, fault.New(fault.RestoreState, fmt.Sprintf("pid %d", rec.Pid), "its parent %d does not come before it in the image", rec.PPid)
		}
		if err := parent.addChild(rec, st); err != nil {
			return nil, err
		}
	}
	if len(st.Processes) == 0 || st.Processes[0].Pid != st.Root {
		return nil, fault.New(fault.RestoreState, "image", "the root process %d is not the first one", st.Root)
	}
	return pl, nil
}

// addChild decides when a child is made. A child inherits its parent's session at birth, so one with the session the parent had
// before it made its own must be older than that.
func (p *procPlan) addChild(c *image.Process, st *image.State) error {
	leader := p.rec.Sid == p.rec.Pid
	switch {
	case c.Sid == c.Pid, c.Sid == p.rec.Sid:
		p.after = append(p.after, c.Pid)
	case leader && c.Sid == inheritedSid(p.rec, st):
		p.before = append(p.before, c.Pid)
	default:
		return fault.New(fault.RestoreState, fmt.Sprintf("pid %d", c.Pid), "it is in session %d, which its parent %d never was in", c.Sid, p.rec.Pid)
	}
	return nil
}

// inheritedSid is the session a process was born into, as far as the tree tells: that of its parent; for the root, any that it does
// not lead itself.
func inheritedSid(rec *image.Process, st *image.State) int {
	i := slices.IndexFunc(st.Processes, func(q image.Process) bool { return q.Pid == rec.PPid })
	if i < 0 {
		return 0
	}
	return st.Processes[i].Sid
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
