package lazy

import (
	"cmp"
	"slices"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/model"
)

const pageSize = model.PageSize

// content is the pages of one space of the image that did not come with the restore itself. It does not change.
type content struct {
	pieces []image.Piece // ascending by address
	first  []int         // index of each piece's first page among all pages
	pages  int
	order  []int          // indices into pieces, by frame
	frames map[uint32]int // frame -> where it begins in order
	list   []uint32       // the frames, ascending
}

func newContent(pieces []image.Piece) *content {
	c := &content{
		pieces: pieces, frames: map[uint32]int{}, first: make([]int, len(pieces)),
		order: make([]int, len(pieces)),
	}
	for i := range pieces {
		c.first[i], c.order[i] = c.pages, i
		c.pages += int(pieces[i].Pages)
	}
	byFrame := func(a, b int) int { return cmp.Compare(pieces[a].Frame, pieces[b].Frame) }
	if !slices.IsSortedFunc(c.order, byFrame) {
		slices.SortStableFunc(c.order, byFrame)
	}
	for at, i := range c.order {
		if f := pieces[i].Frame; at == 0 || f != pieces[c.order[at-1]].Frame {
			c.frames[f] = at
			c.list = append(c.list, f)
		}
	}
	return c
}

// of returns the indices of the pieces in a frame.
func (c *content) of(frame uint32) []int {
	from, ok := c.frames[frame]
	if !ok {
		return nil
	}
	to := from
	for to < len(c.order) && c.pieces[c.order[to]].Frame == frame {
		to++
	}
	return c.order[from:to]
}

// at returns the index of the first piece that ends after addr.
func (c *content) at(addr uint64) int {
	i, _ := slices.BinarySearchFunc(c.pieces, addr, func(p image.Piece, a uint64) int {
		if p.End() <= a {
			return -1
		}
		return 1
	})
	return i
}

// area is a part of a registered mapping and where the image has it. Pages are added to it by nobody but us.
type area struct {
	start, end uint64
	orig       uint64 // the address in the image of what is at start
	blank      bool   // it has no content of the image
}

// part returns the area from address from up to address to.
func (a area) part(from, to uint64) area {
	return area{start: from, end: to, orig: a.orig + from - a.start, blank: a.blank}
}

// memory is one address space that is being filled.
type memory struct {
	fd      int
	pid     int // of a restored process, 0 for a child that one of them forked
	pidfd   int // if pid is not 0
	content *content
	done    []uint64 // a bit for each page of content that needs no more to come
	left    int      // how many bits are 0
	areas   []area   // ascending and disjoint
	// areas where another has been moved to before we learned what became of them, in the order in which that happened
	under  []area
	moved  bool    // some area is not where the image has it
	doubt  bool    // something about the mappings is not known: what is in no area must not be taken for new
	doomed bool    // nothing is known for sure: every page that is missing is lost
	astray bool    // pages have no place: there is no mapping where we believe one
	parent *memory // of a forked child, until it is certain what its parent looked like
	misses int     // consecutive rounds without progress
}

func newMemory(fd, pid int, c *content, ranges []model.Range) *memory {
	m := &memory{fd: fd, pid: pid, content: c, done: make([]uint64, (c.pages+63)/64), left: c.pages}
	for _, r := range ranges {
		m.areas = append(m.areas, area{start: r.Start, end: r.End, orig: r.Start})
	}
	return m
}

// fork returns the memory of a child, as it is at the moment of the fork.
func (m *memory) fork(fd int) *memory {
	return &memory{
		fd: fd, content: m.content, done: slices.Clone(m.done), left: m.left, areas: slices.Clone(m.areas),
		under: slices.Clone(m.under),
		moved: m.moved, doubt: m.doubt, doomed: m.doomed, parent: m,
	}
}

func (m *memory) isDone(page int) bool { return m.done[page/64]&(1<<(page%64)) != 0 }

// mark says of n pages from page on that no more is to come.
func (m *memory) mark(page, n int) {
	for ; n > 0; page, n = page+1, n-1 {
		if !m.isDone(page) {
			m.done[page/64] |= 1 << (page % 64)
			m.left--
		}
	}
}

// drop marks what an area has.
func (m *memory) drop(a area) {
	if a.blank {
		return
	}
	end := a.orig + a.end - a.start
	for i := m.content.at(a.orig); i < len(m.content.pieces); i++ {
		p := &m.content.pieces[i]
		from, to := max(p.Addr, a.orig), min(p.End(), end)
		if from >= to {
			return
		}
		m.mark(m.content.first[i]+int((from-p.Addr)/pageSize), int((to-from)/pageSize))
	}
}

// index returns the index of the first area that ends after addr.
func (m *memory) index(addr uint64) int {
	i, _ := slices.BinarySearchFunc(m.areas, addr, func(a area, at uint64) int {
		if a.end <= at {
			return -1
		}
		return 1
	})
	return i
}

// areaAt returns the area that addr is in.
func (m *memory) areaAt(addr uint64) (area, bool) {
	i := m.index(addr)
	if i == len(m.areas) || m.areas[i].start > addr {
		return area{}, false
	}
	return m.areas[i], true
}

// over returns the parts of the areas that lie in a range.
func (m *memory) over(start, end uint64) []area {
	var out []area
	for i := m.index(start); i < len(m.areas) && m.areas[i].start < end; i++ {
		a := m.areas[i]
		out = append(out, a.part(max(a.start, start), min(a.end, end)))
	}
	return out
}

// cut takes a range out of the areas and returns what was there.
func (m *memory) cut(start, end uint64) []area {
	out := m.over(start, end)
	if len(out) == 0 {
		return nil
	}
	i := m.index(start)
	j := i
	var rest []area
	for ; j < len(m.areas) && m.areas[j].start < end; j++ {
		a := m.areas[j]
		if a.start < start {
			rest = append(rest, a.part(a.start, start))
		}
		if a.end > end {
			rest = append(rest, a.part(end, a.end))
		}
	}
	m.areas = slices.Replace(m.areas, i, j, rest...)
	return out
}

// take takes a range out, for an operation of the process that is over: of two areas at one place it is about the older
// one, which the process had there when it began.
func (m *memory) take(start, end uint64) []area {
	var out, kept []area
	gaps := []model.Range{{Start: start, End: end}}
	for _, u := range m.under {
		from, to := max(u.start, start), min(u.end, end)
		if from >= to {
			kept = append(kept, u)
			continue
		}
		out = append(out, u.part(from, to))
		if u.start < from {
			kept = append(kept, u.part(u.start, from))
		}
		if u.end > to {
			kept = append(kept, u.part(to, u.end))
		}
		gaps = without(gaps, model.Range{Start: from, End: to})
	}
	m.under = kept
	for _, g := range gaps {
		out = append(out, m.cut(g.Start, g.End)...)
	}
	return out
}

// without takes a range out of a list of ranges.
func without(list []model.Range, cut model.Range) []model.Range {
	var out []model.Range
	for _, r := range list {
		if r.Start < cut.Start {
			out = append(out, model.Range{Start: r.Start, End: min(r.End, cut.Start)})
		}
		if r.End > cut.End {
			out = append(out, model.Range{Start: max(r.Start, cut.End), End: r.End})
		}
	}
	return out
}

// discarded is MADV_DONTNEED and its like.
func (m *memory) discarded(start, end uint64) {
	for _, a := range m.over(start, end) {
		m.drop(a)
	}
}

// unmapped is munmap(2), also by a mapping that takes the place.
func (m *memory) unmapped(start, end uint64) {
	for _, a := range m.take(start, end) {
		m.drop(a)
	}
}

// remapped is mremap(2) to another address.
func (m *memory) remapped(from, to, size uint64) {
	got := m.take(from, from+size)
	if len(got) == 0 {
		m.doubt = true // a mapping that we know nothing of has come to be there
	}
	// Whatever was at the new place was unmapped before, and we are told so before. If we have not been, another thread
	// did and its message is still to come; it has the first claim on what it finds here.
	m.under = append(m.under, m.cut(to, to+size)...)
	for _, a := range got {
		left := area{start: a.start, end: a.end, blank: true} // stays with MREMAP_DONTUNMAP, else it is unmapped next
		if len(m.over(a.start, a.end)) == 0 {
			m.put(left)
		} else {
			m.under = append(m.under, left)
		}
		a.start, a.end = a.start-from+to, a.end-from+to
		m.put(a)
		m.moved = true
	}
}

// put adds an area where there is none.
func (m *memory) put(a area) {
	i := m.index(a.start)
	m.areas = slices.Insert(m.areas, i, a)
}

// settled is called when the kernel has done something for us: then no operation of the process that we are told about
// is under way.
func (m *memory) settled() {
	if len(m.under) > 0 {
		m.under, m.doubt = nil, true
	}
}

// span is pages of a piece that are missing, and where they belong.
type span struct {
	addr  uint64 // in the process
	page  int    // index among the pages of the content
	off   int    // pages from the start of the decoded frame
	pages int
}

// spans returns what is missing of piece i.
func (m *memory) spans(i int) []span {
	if m.doomed {
		return nil
	}
	p := &m.content.pieces[i]
	var out []span
	add := func(a area) {
		from, to := max(p.Addr, a.orig), min(p.End(), a.orig+a.end-a.start)
		if a.blank || from >= to {
			return
		}
		n := int((from - p.Addr) / pageSize)
		for end := n + int((to-from)/pageSize); n < end; {
			page := m.content.first[i] + n
			if m.isDone(page) {
				n++
				continue
			}
			k := 1
			for n+k < end && !m.isDone(page+k) {
				k++
			}
			out = append(out, span{
				addr: p.Addr + uint64(n)*pageSize - a.orig + a.start, page: page,
				off: int(p.Off) + n, pages: k,
			})
			n += k
		}
	}
	if m.moved {
		for _, a := range m.areas {
			add(a)
		}
		return out
	}
	for j := m.index(p.Addr); j < len(m.areas) && m.areas[j].start < p.End(); j++ {
		add(m.areas[j])
	}
	return out
}

// missing tells which frame has the page at addr, if it is one that is to come. absent is for how many pages from addr
// on, 16 at most, there is none to come; 0 if addr is in no area.
func (m *memory) missing(addr uint64) (frame uint32, ok bool, absent uint64) {
	a, in := m.areaAt(addr)
	if !in {
		return 0, false, 0
	}
	const most = 16
	absent = min(most, (a.end-addr)/pageSize)
	if a.blank {
		return 0, false, absent
	}
	orig := addr - a.start + a.orig
	for i := m.content.at(orig); i < len(m.content.pieces); i++ {
		p := &m.content.pieces[i]
		if p.Addr >= orig+absent*pageSize {
			break
		}
		for at := max(p.Addr, orig); at < min(p.End(), orig+absent*pageSize); at += pageSize {
			if m.isDone(m.content.first[i] + int((at-p.Addr)/pageSize)) {
				continue
			}
			if at == orig {
				return p.Frame, true, 0
			}
			return 0, false, (at - orig) / pageSize
		}
	}
	return 0, false, absent
}
