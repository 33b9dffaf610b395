package image

import (
	"cmp"
	"context"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// ofParent marks the frame of a run, while writing, as a frame of the parent's page map. Frames of the image itself are
// numbered below it.
const ofParent = uint32(1) << 31

// maxReferenced is how many other images one map may name. Those of which least is needed beyond it are not referenced:
// their pages are copied. So a restore opens a bounded number of files, and a long row of small images does not keep
// every one of them alive.
const maxReferenced = 96

// maxReplaced is how many earlier ids of an image are remembered.
const maxReplaced = 64

// parent is the image that a Writer takes pages from.
type parent struct {
	*Reader
	kept  map[keep]struct{}
	cache *frameCache // of Compare, nil before its first call
}

// keep is a pair of spaces of which one has pages of the other that nobody has compared.
type keep struct{ space, from model.Space }

// openParent opens the parent when it is first needed: one that is only noted costs nothing. It stays in the store
// until the writer is done, for the workspace's lock file names it.
func (w *Writer) openParent() (*parent, error) {
	if w.parent != nil {
		return w.parent, nil
	}
	store, id := w.ws.store, w.opts.Parent
	if w.done {
		return nil, errClosed
	}
	if id == "" {
		return nil, fault.New(fault.StoreParent, store, "the image has no parent")
	}
	r, err := openImage(w.ws.images.store, published{w.ws.images.store, id}, id)
	if err != nil {
		return nil, err
	}
	if len(r.pages.frames) >= int(ofParent)/2 {
		_ = r.Close()
		return nil, fault.New(fault.StoreParent, store+"@"+id, "its page map has %d frames", len(r.pages.frames))
	}
	w.parent = &parent{Reader: r, kept: map[keep]struct{}{}}
	return w.parent, nil
}

// Keep records that pages of a space are as they are in the same space of the parent: its data, its zero pages, and
// where it has no page there is none now. Nothing is read. It is for pages of which dirty tracking says that they were
// not written since the parent was taken; Commit checks with Follows that the processes are the same.
func (w *Writer) Keep(space model.Space, addr, pages uint64) error {
	return w.KeepFrom(space, addr, pages, space, addr)
}

// KeepFrom is Keep for pages that the parent has elsewhere: spaces are numbered afresh in each image, mremap(2) moves
// pages, and a forked child has those of its parent. at is their address in the space from of the parent.
func (w *Writer) KeepFrom(space model.Space, addr, pages uint64, from model.Space, at uint64) error {
	if err := w.check(space, addr, bytesOf(pages)); err != nil {
		return err
	}
	if err := w.check(from, at, bytesOf(pages)); err != nil {
		return err
	}
	if _, err := w.openParent(); err != nil {
		return err
	}
	if pages == 0 {
		return nil
	}
	w.parent.kept[keep{space, from}] = struct{}{}
	end := at + bytesOf(pages)
	pos := at
	for _, r := range w.parent.pages.between(from, at, end) {
		r = r.part(max(r.addr, at), min(r.end(), end))
		if r.addr > pos {
			w.addEmpty(space, addr+(pos-at), (r.addr-pos)/model.PageSize, frameGone)
		}
		pos = r.end()
		r.addr, r.space = addr+(r.addr-at), space
		if r.frame != frameZero {
			r.frame |= ofParent
		}
		w.runs.add(r)
	}
	if pos < end {
		w.addEmpty(space, addr+(pos-at), (end-pos)/model.PageSize, frameGone)
	}
	return nil
}

// Parent is the state of the parent, nil without one. It must not be changed. Damage of the parent is an E_IMAGE_*
// fault: better found before anything is frozen.
func (w *Writer) Parent() (*model.State, error) {
	if w.opts.Parent == "" {
		return nil, nil
	}
	p, err := w.openParent()
	if err != nil {
		return nil, err
	}
	return p.state, nil
}

// between returns the runs of a space that have pages from address from up to address to.
func (m *pageMap) between(space model.Space, from, to uint64) []run {
	runs := m.of(space)
	after := func(addr uint64) int {
		i, _ := slices.BinarySearchFunc(runs, addr, func(r run, addr uint64) int { return cmp.Compare(r.addr, addr) })
		return i
	}
	first := after(from)
	if first > 0 && runs[first-1].end() > from {
		first--
	}
	return runs[first:max(first, after(to))]
}

// absorb makes pages of referenced images beyond maxReferenced the image's own and returns the runs anew.
func (w *Writer) absorb(runs []run) ([]run, error) {
	p := w.parent
	live := make([]uint64, len(p.pages.images)) // pages by referenced image
	for i := range runs {
		if f := runs[i].frame; runs[i].stored() && f&ofParent != 0 {
			live[p.pages.frames[f&^ofParent].image] += uint64(runs[i].pages)
		}
	}
	order := make([]int, 0, len(live))
	for i, n := range live {
		if n > 0 {
			order = append(order, i)
		}
	}
	if len(order) <= maxReferenced {
		return runs, nil
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(live[a], live[b]), cmp.Compare(a, b)) })
	small := make([]bool, len(live))
	for _, i := range order[:len(order)-maxReferenced*3/4] { // with room for the next images
		small[i] = true
	}
	return w.copyReferenced(runs, func(f *frame) bool { return small[f.image] })
}

// copyReferenced makes pages in those frames of the parent's map that are chosen the image's own.
func (w *Writer) copyReferenced(runs []run, chosen func(*frame) bool) ([]run, error) {
	p := w.parent
	var idx []int
	for i := range runs {
		if f := runs[i].frame; runs[i].stored() && f&ofParent != 0 && chosen(&p.pages.frames[f&^ofParent]) {
			idx = append(idx, i)
		}
	}
	// One after the other in the order of addresses, so that what is read together later lies together.
	cache := newFrameCache(p.Reader, cachedFrames)
	defer cache.close()
	add := slices.Clone(runs)
	w.runs = add
	common := commonPages(runs)
	for _, i := range idx {
		data, err := cache.get(context.Background(), runs[i].frame&^ofParent)
		if err != nil {
			return nil, err
		}
		err = common.each(runs[i], func(r run, from model.Space) error {
			if from != 0 {
				w.same(r.space, r.addr, uint64(r.pages), from)
				return nil
			}
			at := int(r.off) * model.PageSize
			w.addData(r.space, r.addr, data[at:at+int(r.pages)*model.PageSize], nil)
			return w.workerFault()
		})
		if err != nil {
			return nil, err
		}
	}
	return w.runs.resolve(), nil
}

// pageMap puts the map of the image together: its own frames, and those of the parent's map that runs name.
func (w *Writer) pageMap(frames []frame, runs []run) *pageMap {
	m := &pageMap{images: []string{w.ws.id}, frames: frames, runs: runs}
	if w.parent == nil {
		return m
	}
	from := w.parent.pages
	used := make([]bool, len(from.frames))
	for i := range runs {
		if f := runs[i].frame; runs[i].stored() && f&ofParent != 0 {
			used[f&^ofParent] = true
		}
	}
	number := make([]uint32, len(from.frames))
	last := ^uint32(0)
	for i, f := range from.frames { // by image, so their order is that of the new map
		if !used[i] {
			continue
		}
		if f.image != last {
			last = f.image
			m.images = append(m.images, from.images[last])
		}
		number[i] = uint32(len(m.frames))
		f.image = uint32(len(m.images) - 1)
		m.frames = append(m.frames, f)
	}
	for i := range runs {
		if f := runs[i].frame; runs[i].stored() && f&ofParent != 0 {
			runs[i].frame = number[f&^ofParent]
		}
	}
	return m
}

// checkParent checks that the pages kept unseen are those of the same processes.
func (w *Writer) checkParent(st *model.State) error {
	if w.parent == nil {
		return nil
	}
	for k := range w.parent.kept {
		if err := follows(w.parent.state, k.from, st, k.space); err != nil {
			return fault.New(fault.StoreParent, w.ws.store+"@"+w.opts.Parent, "%w", err)
		}
	}
	return nil
}
