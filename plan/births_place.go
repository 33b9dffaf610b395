package plan

import (
	"fmt"
	"iter"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// This file is the search: who can make whom.

// maker is somebody who may make a process, before or after the making of its session.
type maker struct {
	who    int
	before bool
}

// bornTo is the session that a child of m is born into.
func (f *family) bornTo(m maker) int {
	if m.before {
		return f.born[m.who]
	}
	return f.session[m.who]
}

// put makes m the maker of i.
func (f *family) put(i int, m maker) {
	f.Kin[i].by, f.Kin[i].before = m.who, m.before
	f.born[i] = outsideSession
	if m.who != TheStub {
		f.born[i] = f.bornTo(m)
	}
	f.isPlaced[i] = true
	f.placed = append(f.placed, i)
}

// takeBack undoes the last put.
func (f *family) takeBack() {
	f.isPlaced[f.placed[len(f.placed)-1]] = false
	f.placed = f.placed[:len(f.placed)-1]
}

// below reports whether i is a or made by a descendant of a, by birth.
func (f *family) below(i, a int) bool {
	for ; i != TheStub; i = f.Kin[i].by {
		if i == a {
			return true
		}
	}
	return false
}

// place finds a maker for everybody. Those whose session is another than their parent's, and whom they depend on, are
// tried in every way; all others are made by their parents.
func (f *family) place() error {
	if err := f.placeStrangers(); err != nil {
		return err
	}
	for i := range f.st.Processes {
		if !f.isPlaced[i] {
			f.put(i, f.naturally(i))
		}
	}
	return nil
}

// naturally is the maker of a process in the session of its parent, or of one that leads its own.
func (f *family) naturally(i int) maker { return maker{f.parent(i), false} }

// maxTries bounds the search for one order of the strangers. What programs do is found at once; what thousands of
// random histories made, in some hundreds of tries.
const maxTries = 20000

func (f *family) placeStrangers() error {
	f.put0()
	if len(f.strangers) == 0 {
		return nil
	}
	var ids []int
	for id := range f.strangers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	rooted := len(f.placed)
	for late := range orders(len(ids)) {
		f.tries = 0
		after := map[int]bool{}
		for i, id := range ids {
			after[id] = late>>i&1 != 0
		}
		if f.try(f.sequence(after), 0) {
			return nil
		}
		for len(f.placed) > rooted {
			f.takeBack()
		}
	}
	worst := f.Kin[f.strangers[ids[len(ids)-1]][0]].Rec
	return fault.New(fault.RestoreState, fmt.Sprintf("pid %d", worst.Pid),
		"it is in session %d, which its parent %d never was in", worst.Sid, worst.PPid).
		WithRemedy("save it together with the processes outside the tree that are in this session, or restore an image of it from before its parents ended")
}

// put0 places the root, and who must be there before it.
func (f *family) put0() {
	by := TheStub
	if s := f.session[0]; s != outsideSession && s != f.Kin[0].Pid {
		by = f.index[s]
		f.put(by, maker{TheStub, false})
	}
	f.put(0, maker{by, false})
}

// orders yields bit sets of n sessions: which of their leaders are made after the parents of their strangers. The
// likely ones come first.
func orders(n int) iter.Seq[uint64] {
	const all = 8
	return func(yield func(uint64) bool) {
		if !yield(1<<n-1) || n > all && !yield(0) {
			return
		}
		for set := uint64(0); n <= all && set < 1<<n-1; set++ {
			if !yield(set) {
				return
			}
		}
	}
}

// sequence lists the strangers and all they depend on, what must be there first before the rest; the leaders of the
// sessions in after follow the parents of their strangers.
func (f *family) sequence(after map[int]bool) []int {
	seen := make([]bool, len(f.Kin))
	var list []int
	var visit func(i int)
	visit = func(i int) {
		if seen[i] {
			return
		}
		seen[i] = true
		if f.Kin[i].Rec != nil && i > 0 {
			visit(f.parent(i))
		}
		if id := f.session[i]; id != outsideSession {
			if lead := f.index[id]; lead != i {
				visit(lead)
			} else if after[id] {
				for _, s := range f.strangers[id] {
					visit(f.parent(s))
				}
			}
		}
		if !f.isPlaced[i] {
			list = append(list, i)
		}
	}
	for i := range f.st.Processes {
		if slices.Contains(f.strangers[f.session[i]], i) {
			visit(i)
		}
	}
	return list
}

// try places list from n on, and reports whether it could. What it placed is taken back if not.
func (f *family) try(list []int, n int) bool {
	if n == len(list) {
		return true
	}
	for m := range f.makers(list[n]) {
		if f.tries++; f.tries > maxTries {
			return false
		}
		f.put(list[n], m)
		if f.try(list, n+1) {
			return true
		}
		f.takeBack()
	}
	return false
}

// makers yields who may make i, the likeliest first: its parent, then those below its parent.
func (f *family) makers(i int) iter.Seq[maker] {
	return func(yield func(maker) bool) {
		seen := map[maker]bool{}
		offer := func(m maker) bool {
			if seen[m] || !f.mayMake(m, i) {
				return true
			}
			seen[m] = true
			return yield(m)
		}
		if k := f.Kin[i]; k.Rec != nil && !f.awaited(i) {
			p := f.parent(i)
			if !offer(maker{p, false}) || !offer(maker{p, true}) {
				return
			}
			if id := f.session[i]; id != outsideSession && !offer(maker{f.index[id], false}) {
				return
			}
		}
		for _, strict := range []bool{true, false} {
			for n := len(f.placed) - 1; n >= 0; n-- {
				who := f.placed[n]
				if strict && !f.belowParents(who, i) {
					continue
				}
				if !offer(maker{who, false}) || !offer(maker{who, true}) {
					return
				}
			}
		}
	}
}

// awaited reports whether i leads a session with strangers.
func (f *family) awaited(i int) bool { return f.leads(i) && len(f.strangers[f.session[i]]) > 0 }

// mayMake reports whether m can make i: i is born into its session, or leads it, and below its parent.
func (f *family) mayMake(m maker, i int) bool {
	if !f.isPlaced[m.who] || m.before && (!f.leads(m.who) || f.Kin[m.who].Rec == nil) {
		return false
	}
	if !f.leads(i) && f.bornTo(m) != f.session[i] {
		return false
	}
	return f.Kin[i].Rec == nil || f.isPlaced[f.parent(i)] && f.below(m.who, f.parent(i))
}

// belowParents reports whether who is below the parents of all strangers in the session that i leads, as far as they
// are placed.
func (f *family) belowParents(who, i int) bool {
	if !f.awaited(i) {
		return true
	}
	for _, s := range f.strangers[f.session[i]] {
		if p := f.parent(s); f.isPlaced[p] && !f.below(who, p) {
			return false
		}
	}
	return true
}
