package restore

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/model"
)

// hugeSize is how large a transparent huge page is, bytes, 0 if the kernel has none
// (Documentation/admin-guide/mm/transhuge.rst).
func hugeSize() uint64 {
	b, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n < pageSize || n&(n-1) != 0 {
		return 0
	}
	return n
}

// hugeBlocks returns what may come back as huge pages of size bytes: in memory for which the program asked for them
// (MADV_HUGEPAGE), the aligned blocks of which every page was there. Whether they were huge does not matter: they take
// no more memory as such. Pages that were not all there stay small, so that what was given back piece by piece stays
// given back. So do those of a process that wants no huge pages at all. Ascending; neighbours are one range.
func hugeBlocks(rec *model.Process, runs []image.Run, size uint64) []model.Range {
	var out []model.Range
	if size == 0 || rec.MM.THPDisable {
		return nil
	}
	for i := range rec.VMAs {
		v := &rec.VMAs[i]
		for len(runs) > 0 && runs[0].Addr+runs[0].Pages*pageSize <= v.Start {
			runs = runs[1:]
		}
		if !asksForHuge(v) {
			continue
		}
		for _, whole := range wholeRanges(runs, v) {
			start, end := (whole.Start+size-1)&^(size-1), whole.End&^(size-1)
			if start >= end {
				continue
			}
			if n := len(out); n > 0 && out[n-1].End == start {
				out[n-1].End = end
				continue
			}
			out = append(out, model.Range{Start: start, End: end})
		}
	}
	return out
}

func asksForHuge(v *model.VMA) bool { return v.Kind == model.VMAAnon && !v.Shared && v.Has("hg") }

// wholeRanges returns the parts of a mapping of which every page has content, zeros included. runs begin at or before
// it.
func wholeRanges(runs []image.Run, v *model.VMA) []model.Range {
	var out []model.Range
	for _, r := range runs {
		if r.Addr >= v.End {
			break
		}
		start, end := max(r.Addr, v.Start), min(r.Addr+r.Pages*pageSize, v.End)
		if n := len(out); n > 0 && out[n-1].End == start {
			out[n-1].End = end
			continue
		}
		out = append(out, model.Range{Start: start, End: end})
	}
	return out
}

// outside returns what of the address space lies outside of ranges, which are ascending and disjoint.
func outside(ranges []model.Range) []model.Range {
	var out []model.Range
	at := uint64(0)
	for _, r := range ranges {
		if at < r.Start {
			out = append(out, model.Range{Start: at, End: r.Start})
		}
		at = r.End
	}
	return append(out, model.Range{Start: at, End: arch.Host.AddressEnd})
}

// fillHuge loads the content of blocks after the kernel was asked for huge pages there: the first write to each then
// brings one. All other content must be there, since a block of which a page is there gets none.
func (m *memory) fillHuge(p *process, f *filler, blocks []model.Range) error {
	if len(blocks) == 0 {
		return nil
	}
	b := p.batch(p.lead)
	for i := range p.rec.VMAs {
		v := &p.rec.VMAs[i]
		if asksForHuge(v) && slices.ContainsFunc(blocks,
			func(a model.Range) bool { return a.Start < v.End && a.End > v.Start }) {
			b.call(fmt.Sprintf("ask for huge pages in %#x-%#x", v.Start, v.End), unix.SYS_MADVISE, v.Start,
				v.End-v.Start, unix.MADV_HUGEPAGE)
		}
	}
	if err := b.done(); err != nil {
		return err
	}
	return m.content.load(p.rec.Space, blocks, f.write)
}
