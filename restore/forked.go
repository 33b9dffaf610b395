package restore

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// bequests is the memory that processes share with those they make, who are born with it.
type bequests struct {
	j        *journal
	content  content
	heritage *plan.Heritage
	unshared map[int]bool // by index of heritage.Bequests: those that could not be made
}

// fill maps and fills, in a process that has just been made, the memory that it shares with those it is going to make.
func (q *bequests) fill(p *process) error {
	h := q.heritage
	for n := range h.Bequests {
		m := &h.Bequests[n]
		if m.Kin != p.kin {
			continue
		}
		at, err := p.call(fmt.Sprintf("map %#x-%#x for its children, too", m.Start, m.End), unix.SYS_MMAP, m.Start,
			m.End-m.Start, unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE|m.Flags, ^uint64(0), 0)
		switch {
		case errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENOMEM):
			// The stack of the stub is where the kernel has put it, and limits are still ours: then each process gets
			// these pages for itself.
			q.unshared[n] = true
		case err != nil:
			return err
		case uint64(at) != m.Start:
			return fmt.Errorf("map memory of %s: got %#x instead of %#x", p.object(), at, m.Start)
		}
	}
	if err := q.j.step("fill memory that children share"); err != nil {
		return err
	}
	for _, fill := range h.Fills[p.kin] {
		err := q.content.load(fill.Space, model.Intersect(fill.Parts, q.bornWith(p.kin)),
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
func (q *bequests) bornWith(kin int) []model.Range {
	var out []model.Range
	h := q.heritage
	for _, n := range h.BornWith(kin) {
		if !q.unshared[n] {
			out = append(out, h.Bequests[n].Range)
		}
	}
	return out
}

// keptVMAs are mappings, by index into the process's record, that it is born with.
type keptVMAs map[int]bool

func (q *bequests) kept(p *process) keptVMAs {
	kept := keptVMAs{}
	for _, k := range q.heritage.Kept[p.kin] {
		if !q.unshared[k.Bequest] {
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

// makeRoom unmaps what a process was born with and others need, where its boot area is to be, at boot.
func (q *bequests) makeRoom(p *process, boot uint64) error {
	area := []model.Range{bootArea(boot)}
	for _, part := range model.Intersect(q.bornWith(p.kin), area) {
		if _, err := p.call("unmap memory of others", unix.SYS_MUNMAP, part.Start, part.End-part.Start); err != nil {
			return err
		}
	}
	return nil
}

// adapt makes the mappings that a process is born with its own: with the protection that new ones have at first, and
// without the pages that are another's.
func (q *bequests) adapt(p *process, b *batch, kept keptVMAs) {
	for i := range p.rec.VMAs {
		v := &p.rec.VMAs[i]
		if prot := plan.FirstProt(v); kept[i] && prot != unix.PROT_READ|unix.PROT_WRITE {
			b.call(fmt.Sprintf("protect %#x-%#x", v.Start, v.End), unix.SYS_MPROTECT, v.Start, v.End-v.Start, prot)
		}
	}
	stale := model.Intersect(q.heritage.Stale[p.kin], kept.ranges(p))
	for _, part := range stale {
		b.call(fmt.Sprintf("drop %#x-%#x", part.Start, part.End), unix.SYS_MADVISE, part.Start, part.End-part.Start,
			unix.MADV_DONTNEED)
	}
}

// inPlace is what of the memory of a process is there since it was made.
func (q *bequests) inPlace(p *process) []model.Range {
	return model.Intersect(q.heritage.InPlace[p.kin], q.kept(p).ranges(p))
}
