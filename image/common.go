package image

import "github.com/bpfckpt/bpfckpt/model"

// common tells which pages of a list of runs several spaces have at the same address: what processes share since
// fork(2).
type common struct {
	frames map[uint32]bool // of which more than one space has pages
	copied map[frameEntry]copied
}

// frameEntry is a page of a frame.
type frameEntry struct{ frame, off uint32 }

// copied is where a page went first.
type copied struct {
	addr  uint64
	space model.Space
}

func commonPages(runs []run) *common {
	c := &common{frames: map[uint32]bool{}, copied: map[frameEntry]copied{}}
	first := map[uint32]model.Space{}
	for i := range runs {
		r := &runs[i]
		if !r.stored() {
			continue
		}
		if s, ok := first[r.frame]; ok && s != r.space {
			c.frames[r.frame] = true
		}
		first[r.frame] = r.space
	}
	return c
}

// each calls sink with the parts of a run that is stored: from is the space that sink was given the same pages of
// before, 0 for pages that come for the first time.
func (c *common) each(r run, sink func(part run, from model.Space) error) error {
	if !c.frames[r.frame] {
		return sink(r, 0)
	}
	for at := uint32(0); at < r.pages; {
		from, n := c.take(&r, at), uint32(1)
		for at+n < r.pages && c.take(&r, at+n) == from {
			n++
		}
		start := r.addr + uint64(at)*model.PageSize
		if err := sink(r.part(start, start+uint64(n)*model.PageSize), from); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// take returns the space that had page i of a run first, 0 if it is this one. Asked again it says the same.
func (c *common) take(r *run, i uint32) model.Space {
	page, addr := frameEntry{r.frame, r.off + i}, r.addr+uint64(i)*model.PageSize
	if before, ok := c.copied[page]; ok {
		if before.addr == addr && before.space != r.space {
			return before.space
		}
		return 0
	}
	c.copied[page] = copied{addr, r.space}
	return 0
}

// Same returns where two spaces have the same pages, stored once, at the same addresses: ascending and disjoint.
func (r *Reader) Same(a, b model.Space) []model.Range {
	var out []model.Range
	x, y := r.pages.of(a), r.pages.of(b)
	for len(x) > 0 && len(y) > 0 {
		start, end := max(x[0].addr, y[0].addr), min(x[0].end(), y[0].end())
		if start < end && x[0].stored() && x[0].frame == y[0].frame {
			p, q := x[0].part(start, end), y[0].part(start, end)
			switch n := len(out); {
			case p.off != q.off:
			case n > 0 && out[n-1].End == start:
				out[n-1].End = end
			default:
				out = append(out, model.Range{Start: start, End: end})
			}
		}
		if x[0].end() < y[0].end() {
			x = x[1:]
		} else {
			y = y[1:]
		}
	}
	return out
}
