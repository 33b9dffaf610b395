package image

import (
	"context"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// SquashOptions says how an image is squashed.
type SquashOptions struct {
	Chain    bool  // then also remove the ancestors without a name that no other image continues
	Level    Level // compression, "" for the level of the image
	Workers  int   // as in WriteOptions
	Progress func(done, total int64)
}

// Squash puts an image that holds all of its pages itself in the place of one that references others for some. The new
// one has another id, and the name, parent, time and state of the old one, which also the old id leads to; the old one's
// data stays while others reference it. An image that references none is left as it is. The Info is that of the image as
// it is then; the Removal tells what went. Killed at any moment, the store has the old image or the new one.
func Squash(ctx context.Context, ref string, o SquashOptions) (Info, Removal, error) {
	dir, name, err := SplitRef(ref)
	if err != nil {
		return Info{}, Removal{}, err
	}
	im, done := imagesIn(dir, beneath.OfOurs)
	defer done()
	return im.Squash(ctx, name, o)
}

// Squash is as the function Squash, for the image that a name means, which "" is for the head.
func (im Images) Squash(ctx context.Context, name string, o SquashOptions) (Info, Removal, error) {
	r, err := im.Open(name)
	if err != nil {
		return Info{}, Removal{}, err
	}
	defer func() { _ = r.Close() }()
	info := r.Info()
	if len(info.Referenced) > 0 {
		if info, err = im.squash(ctx, r, o); err != nil {
			return Info{}, Removal{}, err
		}
	}
	_ = r.Close() // what nobody needs any more can go
	res, err := im.change(func() ([]string, error) {
		if !o.Chain {
			return nil, nil
		}
		return im.chain(info.ID)
	})
	return info, res, err
}

// squash writes the new image and publishes it.
func (im Images) squash(ctx context.Context, r *Reader, o SquashOptions) (Info, error) {
	old := r.info
	if o.Level == "" {
		o.Level = old.Level
	}
	level, err := ParseLevel(string(o.Level))
	if err != nil {
		return Info{}, err
	}
	ws, err := im.workspaceFor(old.ID)
	if err != nil {
		return Info{}, err
	}
	w, err := newWriter(ws, WriteOptions{Name: old.Name, Level: level, Workers: o.Workers})
	if err != nil {
		return Info{}, err
	}
	defer w.Abort()
	w.replace, w.extra = &old, r.extra
	w.Note(Notes{Freeze: old.Freeze, Tracking: old.Tracking})
	if err := w.copyAll(ctx, r, o.Progress); err != nil {
		return Info{}, err
	}
	return w.Commit(r.state)
}

// workspaceFor begins an image that is to take the place of another one.
func (im Images) workspaceFor(old string) (*workspace, error) {
	name := im.store.Name()
	l, err := im.store.Lock(false)
	if err != nil {
		return nil, writeFault(name, err)
	}
	defer l.Unlock()
	_, broken, err := im.scan()
	if err == nil {
		err = intruder(broken)
	}
	if err != nil {
		return nil, err
	}
	if !im.isImage(old) {
		return nil, fault.New(fault.StoreNoImage, name+"@"+old, "it was removed meanwhile")
	}
	d, err := l.Begin(old)
	if err != nil {
		return nil, writeFault(name, err)
	}
	return &workspace{images: im, store: name, id: d.ID(), draft: d}, nil
}

// copyAll writes all pages of an image, in the order of addresses, but for contents, which Commit writes.
func (w *Writer) copyAll(ctx context.Context, r *Reader, progress func(done, total int64)) error {
	runs := slices.Clone(r.pages.runs)
	for _, c := range contents(r.state) {
		runs = slices.DeleteFunc(runs, func(u run) bool { return *c.space != 0 && u.space == *c.space })
	}
	var done, total int64
	for i := range runs {
		if runs[i].frame != frameZero {
			total += int64(runs[i].pages) * model.PageSize
		}
	}
	cache := newFrameCache(r, cachedFrames)
	defer cache.close()
	common := commonPages(runs)
	for i := range runs {
		u := &runs[i]
		if u.frame == frameZero {
			w.addEmpty(u.space, u.addr, uint64(u.pages), frameZero)
			continue
		}
		if cache.have(u.frame) == nil {
			if err := cache.fetch(ctx, runs[i:min(len(runs), i+4*maxWorkers)]); err != nil {
				return err
			}
		}
		data, err := cache.get(ctx, u.frame)
		if err != nil {
			return err
		}
		err = common.each(*u, func(part run, from model.Space) error {
			if from != 0 {
				return w.Same(part.space, part.addr, uint64(part.pages), from)
			}
			at := int(part.off) * model.PageSize
			return w.Write(part.space, part.addr, data[at:at+int(part.pages)*model.PageSize])
		})
		if err != nil {
			return err
		}
		if done += int64(u.pages) * model.PageSize; progress != nil {
			progress(done, total)
		}
	}
	return nil
}

// chain returns the ancestors of an image that nothing else needs: without a name, not the head, and with one image
// alone that continues them; the store is locked.
func (im Images) chain(id string) ([]string, error) {
	nodes, err := im.Tree()
	if err != nil {
		return nil, err // who is whose ancestor is not known with a damaged image
	}
	pinned := im.store.Pinned()
	children := map[string]int{}
	for i := range nodes {
		children[nodes[i].Base]++
	}
	byID := func(id string) int { return slices.IndexFunc(nodes, func(n Node) bool { return n.ID == id }) }
	var out []string
	at := byID(id)
	for at >= 0 {
		if at = byID(nodes[at].Base); at < 0 {
			break
		}
		n := &nodes[at]
		if n.Name != "" || n.Head || children[n.ID] > 1 || slices.Contains(pinned, n.ID) || slices.Contains(out, n.ID) {
			break
		}
		out = append(out, n.ID)
	}
	return out, nil
}
