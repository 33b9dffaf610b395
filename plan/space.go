package plan

import (
	"cmp"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// Addresses of a process. Those of the stub are of package internal/stub.
const (
	StubPage   = 0x200000000 // the page of code that every restored process begins with
	MinAddress = 0x10000     // vm.mmap_min_addr, unless it was changed
)

// bootRoom is how far the boot area keeps away from its neighbours, one of which may grow down, if it can.
const bootRoom = 1 << 20

// BootPlace returns an address where the boot area and the vDSO beside it are free in the process to be, and do not
// cover the stub's code. It prefers low addresses: nothing grows down into them. end is arch.Arch.AddressEnd.
func BootPlace(rec *model.Process, end uint64) (uint64, bool) {
	taken := make([]model.Range, 0, len(rec.VMAs)+1)
	for i := range rec.VMAs {
		taken = append(taken, model.Range{Start: rec.VMAs[i].Start, End: rec.VMAs[i].End})
	}
	taken = append(taken, model.Range{Start: StubPage, End: StubPage + model.PageSize})
	slices.SortFunc(taken, func(a, b model.Range) int { return cmp.Compare(a.Start, b.Start) })
	for _, room := range []uint64{bootRoom, 0} {
		if at, ok := hole(taken, BootSize+VDSORoom+2*room, end); ok {
			return at + room, true
		}
	}
	return 0, false
}

// hole returns the lowest address below end where size bytes are free. taken is ascending.
func hole(taken []model.Range, size, end uint64) (uint64, bool) {
	at := uint64(MinAddress)
	for _, t := range taken {
		if t.Start >= at && t.Start-at >= size {
			return at, true
		}
		at = max(at, t.End)
	}
	return at, at+size <= end
}

// archOf is the architecture that a state is of, x86-64 if it does not say.
func archOf(st *model.State) *arch.Arch {
	if a := arch.Of(st.Kernel.Machine); a != nil {
		return a
	}
	return arch.Of(machineX86)
}

// rooms says where the boot area goes in each process that lives, with the vDSO behind it, which waits there while its
// place is made.
func rooms(st *model.State) map[int]uint64 {
	boot := map[int]uint64{}
	for i := range st.Processes {
		if p := &st.Processes[i]; !p.Zombie {
			boot[p.Pid], _ = BootPlace(p, archOf(st).AddressEnd) // roomRefusals refuses one without
		}
	}
	return boot
}

// roomRefusals refuses a process that has no address left for the code that rebuilds it.
func roomRefusals(p *model.Process, end uint64) fault.List {
	if _, ok := BootPlace(p, end); ok {
		return nil
	}
	const size = BootSize + VDSORoom
	return fault.List{fault.New(fault.Mapping, pidName(p.Pid),
		"its address space has no hole of %d bytes, which the code that rebuilds it needs", size).
		WithRemedy("let the program map less")}
}
