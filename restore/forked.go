package restore

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// bequeath maps and fills, in a process that has just been made, the memory that it shares with those it is going to
// make.
func (r *restorer) bequeath(p *process, kin int) error {
	h := r.plan.Forked
	for n := range h.Bequests {
		q := &h.Bequests[n]
		if q.Kin != kin {
			continue
		}
		at, err := p.call(fmt.Sprintf("map %#x-%#x for its children, too", q.Start, q.End), unix.SYS_MMAP, q.Start,
			q.End-q.Start, unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE|q.Flags, ^uint64(0), 0)
		switch {
		case errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENOMEM):
			// The stack of the stub is where the kernel has put it, and limits are still ours: then each process gets
			// these pages for itself.
			r.unshared[n] = true
		case err != nil:
			return err
		case uint64(at) != q.Start:
			return fmt.Errorf("map memory of %s: got %#x instead of %#x", p.object(), at, q.Start)
		}
	}
	if err := r.j.step("fill memory that children share"); err != nil {
		return err
	}
	for _, fill := range h.Fills[kin] {
		err := r.content.load(fill.Space, model.Intersect(fill.Parts, r.bornWith(kin)),
			func(addr uint64, data []byte) error {
				_, err := ptrace.WriteMemory(p.pid, []ptrace.Range{{Addr: addr, Len: len(data)}}, data)
				return err
			})
		if err != nil {
			return err
		}
	}
	return nil
}

// bornWith are the bequests that a process is born with.
func (r *restorer) bornWith(kin int) []model.Range {
	var out []model.Range
	h := r.plan.Forked
	for _, n := range h.BornWith(kin) {
		if !r.unshared[n] {
			out = append(out, h.Bequests[n].Range)
		}
	}
	return out
}

// kinOf is the index of a process of the image in the plan's births.
func (r *restorer) kinOf(p *process) int { return slices.Index(r.made, p) }

// keptVMAs are mappings, by index into the process's record, that it is born with.
type keptVMAs map[int]bool

func (r *restorer) kept(p *process) keptVMAs {
	kept := keptVMAs{}
	for _, k := range r.plan.Forked.Kept[r.kinOf(p)] {
		if !r.unshared[k.Bequest] {
			kept[k.VMA] = true
		}
	}
	return kept
}

// ranges are the addresses of the mappings.
func (k keptVMAs) ranges(p *process) []model.Range {
	var out []model.Range
	for i := range p.rec.VMAs {
		if v := &p.rec.VMAs[i]; k[i] {
			out = append(out, model.Range{Start: v.Start, End: v.End})
		}
	}
	return out
}

// bootArea is what the code that rebuilds a process takes, the parked vDSO included.
func bootArea(at uint64) model.Range {
	return model.Range{Start: at, End: at + plan.BootSize + plan.VDSORoom}
}

// makeRoom unmaps what a process was born with and others need, where its boot area is to be.
func (r *restorer) makeRoom(p *process) error {
	area := []model.Range{bootArea(r.plan.Boot[p.rec.Pid])}
	for _, part := range model.Intersect(r.bornWith(r.kinOf(p)), area) {
		if _, err := p.call("unmap memory of others", unix.SYS_MUNMAP, part.Start, part.End-part.Start); err != nil {
			return err
		}
	}
	return nil
}

// adapt makes the mappings that a process is born with its own: with the protection that new ones have at first, and
// without the pages that are another's.
func (r *restorer) adapt(p *process, b *batch, kept keptVMAs) {
	for i := range p.rec.VMAs {
		v := &p.rec.VMAs[i]
		if prot := plan.FirstProt(v); kept[i] && prot != unix.PROT_READ|unix.PROT_WRITE {
			b.call(fmt.Sprintf("protect %#x-%#x", v.Start, v.End), unix.SYS_MPROTECT, v.Start, v.End-v.Start, prot)
		}
	}
	stale := model.Intersect(r.plan.Forked.Stale[r.kinOf(p)], kept.ranges(p))
	for _, part := range stale {
		b.call(fmt.Sprintf("drop %#x-%#x", part.Start, part.End), unix.SYS_MADVISE, part.Start, part.End-part.Start,
			unix.MADV_DONTNEED)
	}
}

// inPlace is what of the memory of a process is there since it was made.
func (r *restorer) inPlace(p *process) []model.Range {
	return model.Intersect(r.plan.Forked.InPlace[r.kinOf(p)], r.kept(p).ranges(p))
}
