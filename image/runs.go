package image

import (
	"cmp"
	"container/heap"
	"math"
	"slices"
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

// join makes next part of r if it continues r, and reports whether it did.
func (r *run) join(next *run) bool {
	if r.space != next.space || r.end() != next.addr || r.frame != next.frame || uint64(r.pages)+uint64(next.pages) > math.MaxUint32 {
		return false
	}
	if r.frame < frameGone && r.off+r.pages != next.off { // also of a borrowed frame
		return false
	}
	r.pages += next.pages
	return true
}

// part returns the pages of r from address from up to address to.
func (r *run) part(from, to uint64) run {
	p := *r
	p.addr, p.pages = from, uint32((to-from)/PageSize)
	if r.frame < frameGone {
		p.off += uint32((from - r.addr) / PageSize)
	}
	return p
}

// resolve returns the runs as a page map has them: sorted, disjoint, the last written on top, discarded pages left out.
func (l runList) resolve() []run {
	gone := func(r run) bool { return r.frame == frameGone }
	order := func(a, b run) int { return cmp.Or(cmp.Compare(a.space, b.space), cmp.Compare(a.addr, b.addr)) }
	if slices.IsSortedFunc(l, order) && l.disjoint() {
		return slices.DeleteFunc(l, gone)
	}
	age := make([]int, len(l)) // indices of l, by space and address, then age
	for i := range age {
		age[i] = i
	}
	slices.SortStableFunc(age, func(a, b int) int { return order(l[a], l[b]) })
	var out runList
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

// disjoint reports whether no run of a sorted list overlaps the next.
func (l runList) disjoint() bool {
	for i := 1; i < len(l); i++ {
		if l[i].space == l[i-1].space && l[i].addr < l[i-1].end() {
			return false
		}
	}
	return true
}

// overlay adds to out what is visible of the runs of one space, which idx lists by address. It sweeps over the addresses and
// keeps the runs that cover the current one in a heap, latest on top.
func (l runList) overlay(idx []int, out *runList) {
	var live latest
	pos := uint64(0)
	for len(idx) > 0 || len(live) > 0 {
		for len(live) > 0 && l[live[0]].end() <= pos {
			heap.Pop(&live)
		}
		if len(live) == 0 {
			if len(idx) == 0 {
				return
			}
			pos = l[idx[0]].addr
		}
		for len(idx) > 0 && l[idx[0]].addr <= pos {
			heap.Push(&live, idx[0])
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

// latest is a heap of indices, the largest on top.
type latest []int

func (h latest) Len() int           { return len(h) }
func (h latest) Less(i, j int) bool { return h[i] > h[j] }
func (h latest) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *latest) Push(x any)        { *h = append(*h, x.(int)) }
func (h *latest) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
