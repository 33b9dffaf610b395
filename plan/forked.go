package plan

import (
	"cmp"
	"maps"
	"slices"

	"github.com/bpfckpt/bpfckpt/model"
)

// This file decides how processes come to share memory again that they share since fork(2): who has it first maps and
// fills it before it makes its children, and they are born with it. Each keeps what of it is in its own mappings, gives
// up the rest, and is filled with what differs.

// SamePages tells where two spaces of an image have the same pages, stored once, at the same addresses: ascending and
// disjoint. It is image.Reader.Same.
type SamePages func(a, b model.Space) []model.Range

// Heritage is the memory that processes are born with. Processes are indices into Births.Kin.
type Heritage struct {
	Bequests []Bequest
	Fills    map[int][]Fill        // what a process writes to them before it makes its children
	Kept     map[int][]Keep        // mappings that a process has already when it is made, ascending
	InPlace  map[int][]model.Range // pages in those that are what they have to be
	Stale    map[int][]model.Range // pages in those that have to go
	mapped   map[int][]int         // Bequests that a process is born with, or maps
}

// Bequest is private anonymous memory that one process maps, readable and writable, for all that it makes.
type Bequest struct {
	model.Range
	Flags uint64 // MAP_* beside those of private anonymous memory
	Kin   int    // who maps it
}

// Fill is pages of a space.
type Fill struct {
	Space model.Space
	Parts []model.Range
}

// Keep is a mapping, an index into the process's VMAs, that is part of a bequest.
type Keep struct{ VMA, Bequest int }

// BornWith returns the bequests that a process has when it is made, those that it makes itself included.
func (h *Heritage) BornWith(kin int) []int { return h.mapped[kin] }

// heirs is a Heritage being planned.
type heirs struct {
	Heritage
	b      *Births
	same   SamePages
	pairs  map[[2]int][]model.Range // what two processes have in common; the first is an ancestor, or the elder sibling
	shares map[int][]model.Range    // what a process has in common with any other
	have   map[int]contents         // what is in the bequests when a process is made
}

// contents is where pages have the content that a space has there: by space, disjoint.
type contents map[model.Space][]model.Range

// MakeHeritage finds what processes share. It adds the steps to births.
func MakeHeritage(b *Births, same SamePages) *Heritage {
	h := &heirs{
		b: b, same: same, pairs: map[[2]int][]model.Range{}, shares: map[int][]model.Range{},
		have: map[int]contents{},
	}
	h.Fills, h.Kept, h.mapped = map[int][]Fill{}, map[int][]Keep{}, map[int][]int{}
	h.InPlace, h.Stale = map[int][]model.Range{}, map[int][]model.Range{}
	if same == nil {
		return &h.Heritage
	}
	h.compare()
	h.choose()
	if len(h.Bequests) == 0 {
		return &h.Heritage
	}
	for _, s := range b.Steps {
		if s.Do == ActFork {
			h.bear(s.Who)
		}
	}
	h.addSteps()
	return &h.Heritage
}

// lives reports whether a process has memory to come back.
func (h *heirs) lives(i int) bool { return h.b.Kin[i].Rec != nil && !h.b.Kin[i].Rec.Zombie }

func (h *heirs) space(i int) model.Space { return h.b.Kin[i].Rec.Space }

// ancestors calls do for those that a process descends from, itself not included, the nearest first.
func (h *heirs) ancestors(i int, do func(a int)) {
	for a := h.b.Kin[i].by; a != TheStub; a = h.b.Kin[a].by {
		do(a)
	}
}

// maxAncestors is how many of those that a process descends from it is compared with.
const maxAncestors = 64

// compare finds out what each process has in common with its ancestors, and with the first child of its maker: of pages
// that the maker has written since, children may still have the former ones.
func (h *heirs) compare() {
	elder := map[int]int{}
	for i := range h.b.Kin {
		if !h.lives(i) {
			continue
		}
		n := 0
		h.ancestors(i, func(a int) {
			if n++; n <= maxAncestors && h.lives(a) {
				h.pair(a, i)
			}
		})
		by := h.b.Kin[i].by
		if first, ok := elder[by]; ok {
			h.pair(first, i)
		} else {
			elder[by] = i
		}
	}
}

func (h *heirs) pair(a, b int) {
	if parts := h.same(h.space(a), h.space(b)); len(parts) > 0 {
		h.pairs[[2]int{a, b}] = parts
		h.shares[a] = model.Union(h.shares[a], parts)
		h.shares[b] = model.Union(h.shares[b], parts)
	}
}

// heritable reports whether a mapping can be one that a process is born with, and the flags to map it with: it must
// come from nothing but the call that maps it, and its pages from nothing but being written.
func heritable(p *model.Process, v *model.VMA) (flags uint64, ok bool) {
	if v.Kind != model.VMAAnon || v.Shared || v.Excluded || v.NUMA != "" || p.MM.THPDisable ||
		v.Prot&protExec != 0 || FirstProt(v)&protWrite == 0 {
		return 0, false
	}
	for _, no := range []string{"gd", "hg", "dp", "ht"} {
		if v.Has(no) {
			return 0, false
		}
	}
	for _, name := range v.Flags {
		if f, known := model.VMAFlagOf(name); known && f.How == model.FlagMapped {
			flags |= f.Arg
		}
	}
	return flags, true
}

// member is a mapping with pages that others have, too.
type member struct {
	model.Range
	kin   int
	flags uint64
}

// choose makes bequests of mappings that overlap: a heap that has grown since in one process and not in the other is
// one.
func (h *heirs) choose() {
	var all []member
	for i := range h.b.Kin {
		if !h.lives(i) {
			continue
		}
		rec := h.b.Kin[i].Rec
		for j := range rec.VMAs {
			v := &rec.VMAs[j]
			r := model.Range{Start: v.Start, End: v.End}
			flags, ok := heritable(rec, v)
			if ok && len(model.Intersect(h.shares[i], []model.Range{r})) > 0 {
				all = append(all, member{r, i, flags})
			}
		}
	}
	slices.SortFunc(all, func(a, b member) int { return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.kin, b.kin)) })
	for len(all) > 0 {
		b, n := Bequest{all[0].Range, all[0].flags, all[0].kin}, 1
		members, alike := 1, true
		for ; n < len(all) && all[n].Start < b.End; n++ {
			b.End = max(b.End, all[n].End)
			b.Kin = h.above(b.Kin, all[n].kin)
			alike = alike && all[n].flags == b.Flags
			members++
		}
		all = all[n:]
		clear := b.Start >= MinAddress && (b.End <= StubPage || b.Start >= StubPage+model.PageSize)
		if members > 1 && alike && clear && b.Kin != TheStub {
			h.Bequests = append(h.Bequests, b)
		}
	}
}

// above is the nearest that two processes descend from, or are; TheStub if there is none.
func (h *heirs) above(a, b int) int {
	line := map[int]bool{a: true}
	h.ancestors(a, func(x int) { line[x] = true })
	for x := b; x != TheStub; x = h.b.Kin[x].by {
		if line[x] {
			return x
		}
	}
	return TheStub
}

// bear works out what a process is born with, what it adds for its children, and what it keeps.
func (h *heirs) bear(i int) {
	if by := h.b.Kin[i].by; by != TheStub {
		h.mapped[i] = slices.Clone(h.mapped[by])
		h.have[i] = maps.Clone(h.have[by])
	}
	for n := range h.Bequests {
		if h.Bequests[n].Kin == i {
			h.mapped[i] = append(h.mapped[i], n)
		}
	}
	if len(h.mapped[i]) == 0 {
		return
	}
	slices.Sort(h.mapped[i]) // they are in the order of addresses
	var room []model.Range
	for _, n := range h.mapped[i] {
		room = append(room, h.Bequests[n].Range)
	}
	var done []model.Range
	for _, from := range h.donors(i) {
		var want []model.Range
		for pair, parts := range h.pairs {
			if pair[0] == from && h.descends(pair[1], i) {
				want = model.Union(want, parts)
			}
		}
		want = model.Subtract(model.Intersect(want, room), done)
		done = model.Union(done, want)
		h.fill(i, h.space(from), model.Subtract(want, h.has(i, h.space(from))))
	}
	if h.lives(i) {
		h.keep(i)
	}
}

// donors are those whose pages the children of a process are born with: its own, then those of its first child, of what
// it has itself written since.
func (h *heirs) donors(i int) []int {
	var out []int
	if h.lives(i) {
		out = append(out, i)
	}
	first := slices.IndexFunc(h.b.Kin, func(k Kin) bool { return k.by == i && k.Rec != nil && !k.Rec.Zombie })
	if first >= 0 {
		out = append(out, first)
	}
	return out
}

func (h *heirs) descends(i, from int) bool {
	yes := false
	h.ancestors(i, func(a int) { yes = yes || a == from })
	return yes
}

// has returns where in the bequests a process has the content of a space.
func (h *heirs) has(i int, space model.Space) []model.Range {
	var out []model.Range
	for other, parts := range h.have[i] {
		if other != space {
			parts = model.Intersect(parts, h.same(other, space))
		}
		out = model.Union(out, parts)
	}
	return out
}

// fill puts content of a space into the bequests of a process.
func (h *heirs) fill(i int, space model.Space, parts []model.Range) {
	if len(parts) == 0 {
		return
	}
	h.Fills[i] = append(h.Fills[i], Fill{space, parts})
	have := contents{}
	for other, before := range h.have[i] {
		have[other] = model.Subtract(before, parts)
	}
	have[space] = model.Union(have[space], parts)
	h.have[i] = have
}

// keep decides what of its bequests a process keeps.
func (h *heirs) keep(i int) {
	rec := h.b.Kin[i].Rec
	var kept []model.Range
	for j := range rec.VMAs {
		v := &rec.VMAs[j]
		flags, ok := heritable(rec, v)
		n := slices.IndexFunc(h.mapped[i], func(n int) bool {
			q := &h.Bequests[n]
			return q.Start <= v.Start && v.End <= q.End && q.Flags == flags
		})
		if ok && n >= 0 {
			h.Kept[i] = append(h.Kept[i], Keep{j, h.mapped[i][n]})
			kept = append(kept, model.Range{Start: v.Start, End: v.End})
		}
	}
	var have []model.Range
	for _, parts := range h.have[i] {
		have = model.Union(have, parts)
	}
	have = model.Intersect(have, kept)
	h.InPlace[i] = model.Intersect(have, h.has(i, rec.Space))
	h.Stale[i] = model.Subtract(have, h.InPlace[i])
}

// addSteps lets each process fill what it leaves to its children as soon as it is made.
func (h *heirs) addSteps() {
	var steps []BirthStep
	for _, s := range h.b.Steps {
		steps = append(steps, s)
		makes := slices.ContainsFunc(h.Bequests, func(q Bequest) bool { return q.Kin == s.Who })
		if s.Do == ActFork && (makes || len(h.Fills[s.Who]) > 0) {
			steps = append(steps, BirthStep{Do: ActFill, Who: s.Who})
		}
	}
	h.b.Steps = steps
}
