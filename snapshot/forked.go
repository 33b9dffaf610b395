package snapshot

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/pagemap"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// This file finds memory that processes share since fork(2): pages that have the same page frame in several.
//
// What two processes of the tree have at the same address is copied once, for the first in the order of the tree, and
// the image says of the others that they have the same. Where it may be is looked for while the tree runs. It counts
// only if it is seen again: under the freeze, or, during pre-copy, when the writes of both processes are tracked
// already. Then the pages are what they were when they were seen to be one until one of the two writes, which the
// tracking tells.
//
// And what a process shares with anybody is read through /proc/PID/mem: process_vm_readv(2) pins pages, and what is
// pinned must be nobody else's (mm/gup.c, gup_must_unshare, Linux 6.0), so it would give the process a copy of its own
// of every page, and a tree as many times the memory as it has processes.

// forked is what is known of shared pages.
type forked struct {
	shared map[int][]model.Range // by pid, of those that were searched: pages that it shares with anybody
	again  map[int]bool          // pids that were searched again, under the freeze
	spans  map[int][]kinSpan     // by pid: pages that may be those of another process of the tree
	owns   map[int]bool          // pids that others may have pages of
	given  map[int]shares        // by pid: pages that pre-copy has left to others
	wrote  map[int][]model.Range // by pid, of those that own: what was written before this round of pre-copy
	// By pid, of those that own, under the freeze: pages that the image has; and of these the ones that were not
	// written since pre-copy armed them.
	stored, clean map[int][]model.Range
	spaces        map[int]model.Space  // by pid, under the freeze
	maps          map[int]*pagemap.Map // open for the moment
}

// shares are pages of a process by who has the same, ascending and disjoint.
type shares map[int][]model.Range

// kinSpan is pages that a process has in common with another one.
type kinSpan struct {
	model.Range
	of int
}

// inside returns the parts of spans that lie in [start, end). spans are ascending and disjoint.
func inside(spans []kinSpan, start, end uint64) []kinSpan {
	first, _ := slices.BinarySearchFunc(spans, start, func(s kinSpan, at uint64) int { return cmp.Compare(s.End, at+1) })
	var out []kinSpan
	for _, s := range spans[first:] {
		if s.Start >= end {
			break
		}
		out = append(out, kinSpan{model.Range{Start: max(s.Start, start), End: min(s.End, end)}, s.of})
	}
	return out
}

// clip returns the parts of an ascending, disjoint list that lie in r.
func clip(list []model.Range, r model.Range) []model.Range {
	first, _ := slices.BinarySearchFunc(list, r.Start, func(s model.Range, at uint64) int { return cmp.Compare(s.End, at+1) })
	last := first
	for last < len(list) && list[last].Start < r.End {
		last++
	}
	return model.Intersect(list[first:last], []model.Range{r})
}

// findForked looks for pages that processes share. Who ends meanwhile has none.
func findForked(pids []int) (*forked, error) {
	f := &forked{
		shared: map[int][]model.Range{}, again: map[int]bool{}, spans: map[int][]kinSpan{}, owns: map[int]bool{}, given: map[int]shares{},
		maps: map[int]*pagemap.Map{}, stored: map[int][]model.Range{}, clean: map[int][]model.Range{},
		spaces: map[int]model.Space{},
	}
	maps, private := map[int][]procfs.Map{}, map[int][]model.Range{}
	for _, pid := range pids {
		list, err := procfs.Pid(pid).Maps()
		if err != nil && !ended(err) {
			return nil, err
		}
		maps[pid], private[pid] = list, privateMemory(list)
	}
	several := inSeveral(private)
	defer f.closeMaps()
	first := map[uint64]holder{}
	for i, pid := range pids {
		err := f.search(pids, i, maps[pid], model.Intersect(private[pid], several), first)
		if err != nil && !ended(err) {
			return nil, err
		}
		f.closeMaps()
	}
	return f, nil
}

// findNewcomers searches, under the freeze, processes that have been forked since the search, and who has forked them:
// what was one process's alone may be both's now. parent tells the parent of a process.
func (f *forked) findNewcomers(pids []int, parent func(pid int) int) error {
	var list []int
	for _, pid := range pids {
		if _, known := f.shared[pid]; known {
			continue
		}
		if by := parent(pid); slices.Contains(pids, by) && !slices.Contains(list, by) {
			list = append(list, by)
		}
		if !slices.Contains(list, pid) {
			list = append(list, pid)
		}
	}
	first := map[uint64]holder{}
	for i, pid := range list {
		before, known := f.spans[pid]
		maps, err := procfs.Pid(pid).Maps()
		if err == nil {
			err = f.search(list, i, maps, privateMemory(maps), first)
		}
		if err != nil && !ended(err) {
			return err
		}
		f.again[pid] = true
		if known { // of whom it has pages was found out while there was more time
			f.spans[pid] = before
		}
	}
	return nil
}

// privateMemory lists the mappings of which pages may be shared again by a restore. Code is left out: others set
// breakpoints in it for a while.
func privateMemory(maps []procfs.Map) []model.Range {
	var out []model.Range
	for i := range maps {
		if m := &maps[i]; !m.HasFile() && !m.Shared && m.Prot&unix.PROT_EXEC == 0 {
			out = append(out, model.Range{Start: m.Start, End: m.End})
		}
	}
	return out
}

// mayBeShared is what privateMemory looks for, of a mapping whose content is in the image.
func mayBeShared(v *model.VMA) bool {
	return v.Kind == model.VMAAnon && !v.Shared && v.Prot&unix.PROT_EXEC == 0
}

// inSeveral returns the addresses that more than one process has private memory at.
func inSeveral(private map[int][]model.Range) []model.Range {
	type border struct {
		at   uint64
		step int
	}
	var borders []border
	for _, list := range private {
		for _, r := range list {
			borders = append(borders, border{r.Start, 1}, border{r.End, -1})
		}
	}
	slices.SortFunc(borders, func(a, b border) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.step, b.step)) })
	var out []model.Range
	depth := 0
	for _, b := range borders {
		before := depth
		depth += b.step
		switch {
		case before == 1 && depth == 2:
			if n := len(out); n > 0 && out[n-1].End == b.at {
				continue // one ends where another begins
			}
			out = append(out, model.Range{Start: b.at})
		case before == 2 && depth == 1:
			out[len(out)-1].End = b.at
		}
	}
	return out
}

// holder says who has a page frame first, and where: the address in its upper bits, the index of the process in the
// bits of a page offset. There may be one for each page of the tree, so it is small.
type holder uint64

// search notes which pages of process i have a page frame that somebody else maps, too, and which of those in parts,
// are pages of a process looked at before.
func (f *forked) search(pids []int, i int, maps []procfs.Map, parts []model.Range, first map[uint64]holder) error {
	m, err := f.open(pids[i])
	if err != nil {
		return err
	}
	var shared []model.Range
	var spans []kinSpan
	sink := func(addr, frame uint64) {
		if n := len(shared); n > 0 && shared[n-1].End == addr {
			shared[n-1].End += model.PageSize
		} else {
			shared = append(shared, model.Range{Start: addr, End: addr + model.PageSize})
		}
		for len(parts) > 0 && parts[0].End <= addr {
			parts = parts[1:]
		}
		if len(parts) == 0 || addr < parts[0].Start {
			return
		}
		before, ok := first[frame]
		switch n := len(spans); {
		case !ok && i < model.PageSize: // beyond that many processes some pages are stored more than once
			first[frame] = holder(addr | uint64(i))
		case !ok || uint64(before)&^(model.PageSize-1) != addr:
		case n > 0 && spans[n-1].End == addr && spans[n-1].of == pids[before%model.PageSize]:
			spans[n-1].End += model.PageSize
		default:
			of := pids[before%model.PageSize]
			spans = append(spans, kinSpan{model.Range{Start: addr, End: addr + model.PageSize}, of})
			f.owns[of] = true
		}
	}
	for _, r := range privateWalks(maps) {
		err := m.Walk(r.Start, r.End, pagemap.Content(false), func(g pagemap.Region) error {
			return m.Frames(g.Start, g.End, sink)
		})
		if err != nil {
			return memoryFault(pids[i], err)
		}
	}
	f.shared[pids[i]], f.spans[pids[i]] = shared, spans
	return nil
}

// privateWalks are the parts of an address space that private mappings lie in, without the wide gaps between them.
func privateWalks(maps []procfs.Map) []model.Range {
	var out []model.Range
	for i := range maps {
		m := &maps[i]
		if m.Shared || m.Name == "[vsyscall]" {
			continue
		}
		if n := len(out); n > 0 && m.Start-out[n-1].End < spanGap {
			out[n-1].End = m.End
		} else {
			out = append(out, model.Range{Start: m.Start, End: m.End})
		}
	}
	return out
}

// open returns the page map of a process as it is now.
func (f *forked) open(pid int) (*pagemap.Map, error) {
	if m := f.maps[pid]; m != nil {
		return m, nil
	}
	m, err := pagemap.Open(pid)
	if err != nil {
		return nil, memoryFault(pid, err)
	}
	f.maps[pid] = m
	return m, nil
}

// closeMaps forgets the page maps: they are of no use after an execve(2).
func (f *forked) closeMaps() {
	for _, m := range f.maps {
		_ = m.Close()
	}
	clear(f.maps)
}

// bytes is how much memory of processes is that of others, most likely.
func (f *forked) bytes(pids []int) int64 {
	var sum int64
	for _, pid := range pids {
		for _, s := range f.spans[pid] {
			sum += int64(s.End - s.Start)
		}
	}
	return sum
}

// divide hands [start, end) of a process to same where it has the page of another process that may says to have it, and
// the rest to other, in ascending order.
func (f *forked) divide(pid int, start, end uint64, may func(of int) []model.Range, same func(kinSpan) error,
	other func(start, end uint64),
) error {
	at := start
	for _, s := range inside(f.spans[pid], start, end) {
		for _, r := range clip(may(s.of), s.Range) {
			err := f.common(pid, s.of, r, func(from, to uint64) error {
				if at < from {
					other(at, from)
				}
				at = to
				return same(kinSpan{model.Range{Start: from, End: to}, s.of})
			})
			if err != nil {
				return err
			}
		}
	}
	if at < end {
		other(at, end)
	}
	return nil
}

// common calls sink with those pages of r that two processes have in common now: none if one of them has ended.
func (f *forked) common(pid, of int, r model.Range, sink func(start, end uint64) error) error {
	mine, err := f.open(pid)
	if err == nil {
		var theirs *pagemap.Map
		if theirs, err = f.open(of); err == nil {
			err = mine.Common(theirs, r.Start, r.End, sink)
		}
	}
	if ended(err) {
		return nil
	}
	return err
}

// ended reports whether an error says that a process is no more.
func ended(err error) bool {
	return isGone(err) || errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist)
}

// noteWritten remembers what a process that others have pages of has written.
func (f *forked) noteWritten(pid int, r model.Range) {
	if f.owns[pid] {
		f.wrote[pid] = append(f.wrote[pid], r)
	}
}

// give leaves pages of a process to another one.
func (f *forked) give(pid int, s kinSpan) {
	if f.given[pid] == nil {
		f.given[pid] = shares{}
	}
	f.given[pid][s.of] = append(f.given[pid][s.of], s.Range)
}

// due takes back what pre-copy has left to others of a process, where those have written since the round before. It is
// for the rounds after the first: what they wrote before the pages were seen to be one says nothing.
func (f *forked) due(pid int) []model.Range {
	var out []model.Range
	for of, list := range f.given[pid] {
		list, wrote := model.Merge(list), model.Merge(f.wrote[of])
		out = append(out, model.Intersect(list, wrote)...)
		f.given[pid][of] = model.Subtract(list, wrote)
	}
	return model.Merge(out)
}

// lost returns what pre-copy has left to others of a process and the image does not have of them, unchanged, under the
// freeze.
func (f *forked) lost(pid int) []model.Range {
	var out []model.Range
	for of, list := range f.given[pid] {
		out = append(out, model.Subtract(model.Merge(list), f.clean[of])...)
	}
	return model.Merge(out)
}

// noteStored remembers, under the freeze, that the image has pages of a process.
func (f *forked) noteStored(pid int, v *model.VMA, r model.Range, clean bool) {
	if !f.owns[pid] || !mayBeShared(v) {
		return
	}
	f.stored[pid] = append(f.stored[pid], r)
	if clean {
		f.clean[pid] = append(f.clean[pid], r)
	}
}
