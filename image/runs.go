package image

import (
	"cmp"
	"math"
	"slices"

	"github.com/bpfckpt/bpfckpt/model"
)

// runList collects runs in the order they are written; a later one replaces what it overlaps of earlier ones.
type runList []run

// add appends a run, as part of the last one if it continues it.
func (l *runList) add(r run) {
	if n := len(*l); n > 0 && (*l)[n-1].join(&r) {
		return
	}
	*l = append(*l, r)
}

// addLong adds pages without content of their own, which may be more than one run can count.
func (l *runList) addLong(r run, pages uint64) {
	const most = 1 << 31
	for pages > 0 {
		n := min(pages, most)
		r.pages = uint32(n)
		l.add(r)
		r.addr, pages = r.addr+n*model.PageSize, pages-n
	}
}

// join makes next part of r if it continues r, and reports whether it did.
func (r *run) join(next *run) bool {
	if r.space != next.space || r.end() != next.addr || r.frame != next.frame ||
		uint64(r.pages)+uint64(next.pages) > math.MaxUint32 {
		return false
	}
	if r.stored() && r.off+r.pages != next.off || r.frame == frameSame && r.off != next.off {
		return false
	}
	r.pages += next.pages
	return true
}

// part returns the pages of r from address from up to address to.
func (r *run) part(from, to uint64) run {
	p := *r
	p.addr, p.pages = from, uint32((to-from)/model.PageSize)
	if r.stored() {
		p.off += uint32((from - r.addr) / model.PageSize)
	}
	return p
}

// resolve returns the runs as a page map has them: sorted, disjoint, the last written on top, discarded pages left out,
// pages of another space looked up there.
func (l runList) resolve() []run { return linked(l.sorted()) }

// sorted is resolve but for pages of other spaces.
func (l runList) sorted() []run {
	gone := func(r run) bool { return r.frame == frameGone }
	order := func(a, b run) int { return cmp.Or(cmp.Compare(a.space, b.space), cmp.Compare(a.addr, b.addr)) }
	if slices.IsSortedFunc(l, order) && l.disjoint() {
		return slices.DeleteFunc(l, gone)
	}
	age := l.ordered(order)
	out := make(runList, 0, len(l))
	for len(age) > 0 {
		n := 1
		for n < len(age) && l[age[n]].space == l[age[0]].space {
			n++
		}
		l.overlay(age[:n], &out)
		age = age[n:]
	}
	return slices.DeleteFunc(out, gone)
}

// linked puts in the place of each run that names another space what that space has there. Whose runs name each other in
// a circle stay.
func linked(runs []run) []run {
	names := func(r run) bool { return r.frame == frameSame }
	for chain := 0; chain < maxChain && slices.ContainsFunc(runs, names); chain++ {
		out := make(runList, 0, len(runs))
		m := pageMap{runs: runs}
		for _, r := range runs {
			if !names(r) {
				out.add(r)
				continue
			}
			for _, q := range m.between(model.Space(r.off), r.addr, r.end()) {
				q = q.part(max(q.addr, r.addr), min(q.end(), r.end()))
				q.space = r.space
				out.add(q)
			}
		}
		runs = out
	}
	return runs
}

// maxChain is how many spaces may name the next one: as many generations of a tree share their pages.
const maxChain = 1 << 10

// ordered returns the indices of l by space and address, then age. A list is made of few ascending stretches, what is
// kept of the parent and what each round of pre-copy found, so those are merged: to sort it took longer than all else
// of a small image.
func (l runList) ordered(order func(a, b run) int) []uint32 {
	idx, ends := make([]uint32, len(l)), []int{}
	for i := range idx {
		idx[i] = uint32(i)
		if i > 0 && order(l[i-1], l[i]) > 0 {
			ends = append(ends, i)
		}
	}
	ends = append(ends, len(l))
	for from := make([]uint32, len(l)); len(ends) > 1; {
		idx, from = from, idx
		start, merged := 0, ends[:0]
		for i := 0; i < len(ends); i += 2 {
			mid, end := ends[i], ends[min(i+1, len(ends)-1)]
			l.merge(idx[start:end], from[start:mid], from[mid:end], order)
			start, merged = end, append(merged, end)
		}
		ends = merged
	}
	return idx
}

// merge fills out with the indices of a and b, each of which is in order; all of a are older.
func (l runList) merge(out, a, b []uint32, order func(a, b run) int) {
	for n := range out {
		if len(b) == 0 || len(a) > 0 && order(l[a[0]], l[b[0]]) <= 0 {
			out[n], a = a[0], a[1:]
		} else {
			out[n], b = b[0], b[1:]
		}
	}
}

// disjoint reports whether no run of a sorted list overlaps the next.
func (l runList) disjoint() bool {
	for i := 1; i < len(l); i++ {
		if l[i].space == l[i-1].space && l[i].addr < l[i-1].end() {
			return false
		}
	}
	return true
}

// overlay adds to out what is visible of the runs of one space, which idx lists by address. It sweeps over the
// addresses and keeps the runs that cover the current one in a heap, latest on top.
func (l runList) overlay(idx []uint32, out *runList) {
	var live latest
	pos := uint64(0)
	for len(idx) > 0 || len(live) > 0 {
		for len(live) > 0 && l[live[0]].end() <= pos {
			live.pop()
		}
		if len(live) == 0 {
			if len(idx) == 0 {
				return
			}
			pos = l[idx[0]].addr
		}
		for len(idx) > 0 && l[idx[0]].addr <= pos {
			live.push(idx[0])
			idx = idx[1:]
		}
		top := &l[live[0]]
		to := top.end()
		if len(idx) > 0 {
			to = min(to, l[idx[0]].addr)
		}
		out.add(top.part(pos, to))
		pos = to
	}
}

// latest is a heap of indices, the largest on top. It is not one of container/heap, which makes an object of every
// index.
type latest []uint32

// push adds an index.
func (h *latest) push(x uint32) {
	*h = append(*h, x)
	q := *h
	for i := len(q) - 1; i > 0 && q[(i-1)/2] < q[i]; i = (i - 1) / 2 {
		q[i], q[(i-1)/2] = q[(i-1)/2], q[i]
	}
}

// pop removes the largest.
func (h *latest) pop() {
	q := *h
	n := len(q) - 1
	q[0], *h = q[n], q[:n]
	for i := 0; 2*i+1 < n; {
		child := 2*i + 1
		if child+1 < n && q[child+1] > q[child] {
			child++
		}
		if q[i] >= q[child] {
			return
		}
		q[i], q[child] = q[child], q[i]
		i = child
	}
}
