package image

import (
	"bytes"
	"context"
	"slices"

	"github.com/bpfckpt/bpfckpt/model"
)

// PageDiff is how the pages of one space differ from those of another, of the same image or not.
type PageDiff struct {
	Same    uint64        // pages that both have, with the same content
	Changed uint64        // pages that both have, with another content
	Added   uint64        // pages that only the second has
	Removed uint64        // pages that only the first has
	Bytes   uint64        // bytes that differ, in the changed pages
	Ranges  []model.Range // of the changed, added and removed pages, ascending, neighbours joined
}

// DiffPages compares two spaces. Pages that both images take from the same place are not read.
func DiffPages(ctx context.Context, a *Reader, sa model.Space, b *Reader, sb model.Space) (PageDiff, error) {
	d := &differ{ctx: ctx, a: newFrameCache(a, cachedFrames), b: newFrameCache(b, cachedFrames)}
	defer d.a.close()
	defer d.b.close()
	ra, rb := slices.Clone(a.pages.of(sa)), slices.Clone(b.pages.of(sb)) // they are cut while going on
	for len(ra) > 0 || len(rb) > 0 {
		switch {
		case len(rb) == 0 || len(ra) > 0 && ra[0].end() <= rb[0].addr:
			ra = d.only(&d.Removed, ra, ra[0].end())
		case len(ra) == 0 || rb[0].end() <= ra[0].addr:
			rb = d.only(&d.Added, rb, rb[0].end())
		case ra[0].addr < rb[0].addr:
			ra = d.only(&d.Removed, ra, rb[0].addr)
		case rb[0].addr < ra[0].addr:
			rb = d.only(&d.Added, rb, ra[0].addr)
		default:
			end := min(ra[0].end(), rb[0].end())
			if err := d.both(ra[0].part(ra[0].addr, end), rb[0].part(rb[0].addr, end)); err != nil {
				return PageDiff{}, err
			}
			ra, rb = cut(ra, end), cut(rb, end)
		}
	}
	return d.PageDiff, nil
}

// differ compares two spaces run by run.
type differ struct {
	PageDiff
	ctx  context.Context
	a, b *frameCache
}

// cut returns the runs from address end on, which is in the first one or where that ends.
func cut(runs []run, end uint64) []run {
	if runs[0].end() == end {
		return runs[1:]
	}
	runs[0] = runs[0].part(end, runs[0].end())
	return runs
}

// only counts what is below end of the first run as of one side alone.
func (d *differ) only(count *uint64, runs []run, end uint64) []run {
	*count += (end - runs[0].addr) / model.PageSize
	d.mark(runs[0].addr, end)
	return cut(runs, end)
}

// mark adds addresses to the ranges.
func (d *differ) mark(from, to uint64) {
	if n := len(d.Ranges); n > 0 && d.Ranges[n-1].End == from {
		d.Ranges[n-1].End = to
		return
	}
	d.Ranges = append(d.Ranges, model.Range{Start: from, End: to})
}

// both compares two runs of the same addresses.
func (d *differ) both(a, b run) error {
	if a.frame == frameZero && b.frame == frameZero || d.samePlace(a, b) {
		d.Same += uint64(a.pages)
		return nil
	}
	pa, err := d.a.content(d.ctx, a)
	if err != nil {
		return err
	}
	pb, err := d.b.content(d.ctx, b)
	if err != nil {
		return err
	}
	for i := range uint64(a.pages) {
		x, y := pageOf(pa, i), pageOf(pb, i)
		if bytes.Equal(x, y) {
			d.Same++
			continue
		}
		d.Changed++
		d.mark(a.addr+i*model.PageSize, a.addr+(i+1)*model.PageSize)
		for j := range x {
			if x[j] != y[j] {
				d.Bytes++
			}
		}
	}
	return nil
}

// samePlace reports whether two runs are the same bytes of the same store, or of copies of it: ids are random.
func (d *differ) samePlace(a, b run) bool {
	if a.frame == frameZero || b.frame == frameZero || a.off != b.off {
		return false
	}
	fa, fb := &d.a.r.pages.frames[a.frame], &d.b.r.pages.frames[b.frame]
	return fa.offset == fb.offset && fa.sum == fb.sum && d.a.r.pages.images[fa.image] == d.b.r.pages.images[fb.image]
}

// content is the pages of a run, nil for zero pages.
func (c *frameCache) content(ctx context.Context, r run) ([]byte, error) {
	if r.frame == frameZero {
		return nil, nil
	}
	b, err := c.get(ctx, r.frame)
	if err != nil {
		return nil, err
	}
	return b[int(r.off)*model.PageSize : int(r.off+r.pages)*model.PageSize], nil
}

// pageOf is page i of what content returned.
func pageOf(b []byte, i uint64) []byte {
	if b == nil {
		return zeroPage[:]
	}
	return b[i*model.PageSize : (i+1)*model.PageSize]
}
