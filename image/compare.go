package image

import (
	"bytes"
	"container/list"
	"context"
	"sync"

	"github.com/bpfckpt/bpfckpt/model"
)

const (
	cachedFrames = 24 // decoded frames that a comparison keeps, 1 MiB each
	worthReading = 16 // pages that a frame must hold of the parent for it to be decoded
)

// Compare is Write for pages whose parent has, perhaps, the same content at the address at of its space from: those
// that are equal are taken from there, the others are written. The parent's pages are read for that, byte by byte and
// not by sums, so it is right whatever process the parent is of; it saves space, not time. Pages of the parent that lie
// scattered are written again rather than looked for: reading them would take longer, and the new image has them
// together.
func (w *Writer) Compare(space model.Space, addr uint64, data []byte, from model.Space, at uint64) error {
	if err := w.check(space, addr, uint64(len(data))); err != nil {
		return err
	}
	if err := w.check(from, at, uint64(len(data))); err != nil {
		return err
	}
	p, err := w.openParent()
	if err != nil {
		return err
	}
	c := p.comparer()
	for len(data) > 0 {
		n := min(len(data), comparePiece)
		if err := w.comparePiece(c, space, addr, data[:n], from, at); err != nil {
			return err
		}
		data, addr, at = data[n:], addr+uint64(n), at+uint64(n)
	}
	return w.workerFault()
}

// comparePiece is how much is compared at once: its frames are decoded side by side.
const comparePiece = 8 << 20

func (w *Writer) comparePiece(c *frameCache, space model.Space, addr uint64, data []byte, from model.Space, at uint64) error {
	p := w.parent
	runs := p.pages.between(from, at, at+uint64(len(data)))
	if err := c.fetch(context.Background(), runs); err != nil {
		return writeFault(w.ws.store, err)
	}
	done := 0
	flush := func(to int) error {
		err := error(nil)
		if to > done {
			err = w.Write(space, addr+uint64(done), data[done:to])
		}
		done = to
		return err
	}
	for _, r := range runs {
		if r.frame == frameZero {
			continue // Write finds zero pages by itself
		}
		old := c.have(r.frame)
		if old == nil {
			continue
		}
		r = r.part(max(r.addr, at), min(r.end(), at+uint64(len(data))))
		for i := range r.pages {
			pos := int(r.addr-at) + int(i)*model.PageSize
			o := int(r.off+i) * model.PageSize
			if !bytes.Equal(data[pos:pos+model.PageSize], old[o:o+model.PageSize]) {
				continue
			}
			if err := flush(pos); err != nil {
				return err
			}
			w.runs.add(run{addr: addr + uint64(pos), space: space, pages: 1, frame: r.frame | ofParent, off: r.off + i})
			done = pos + model.PageSize
		}
	}
	return flush(len(data))
}

// comparer returns the cache of Compare.
func (p *parent) comparer() *frameCache {
	if p.cache == nil {
		p.cache = newFrameCache(p.Reader, cachedFrames)
		p.cache.weigh()
	}
	return p.cache
}

// frameCache keeps the frames that were decoded last. One goroutine uses it; it decodes with several.
type frameCache struct {
	r       *Reader
	most    int
	order   list.List // of *cachedFrame, latest first
	frames  map[uint32]*list.Element
	readers []*frameReader
	weight  []uint32 // pages of the map in each frame, nil if all are worth reading
}

// cachedFrame is one decoded frame.
type cachedFrame struct {
	index uint32
	data  []byte
}

func newFrameCache(r *Reader, most int) *frameCache {
	return &frameCache{r: r, most: most, frames: map[uint32]*list.Element{}}
}

// weigh counts how many pages of the map are in each frame.
func (c *frameCache) weigh() {
	c.weight = make([]uint32, len(c.r.pages.frames))
	for i := range c.r.pages.runs {
		if r := &c.r.pages.runs[i]; r.frame != frameZero {
			c.weight[r.frame] += r.pages
		}
	}
}

// have returns a frame's decoded bytes, nil if they are not there.
func (c *frameCache) have(frame uint32) []byte {
	e := c.frames[frame]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cachedFrame).data
}

// get returns a frame's decoded bytes, valid until the next call.
func (c *frameCache) get(ctx context.Context, frame uint32) ([]byte, error) {
	if b := c.have(frame); b != nil {
		return b, nil
	}
	if err := c.load(ctx, []uint32{frame}); err != nil {
		return nil, err
	}
	return c.have(frame), nil
}

// fetch makes the frames of runs ready, as far as they fit and are worth it.
func (c *frameCache) fetch(ctx context.Context, runs []run) error {
	var missing []uint32
	asked := map[uint32]bool{}
	for i := range runs {
		f := runs[i].frame
		if f == frameZero || asked[f] || len(asked) == c.most {
			continue
		}
		if c.have(f) != nil {
			asked[f] = true
			continue
		}
		if c.weight == nil || c.weight[f] >= min(worthReading, c.r.pages.frames[f].raw/model.PageSize) {
			asked[f] = true
			missing = append(missing, f)
		}
	}
	return c.load(ctx, missing)
}

// load decodes frames and puts them into the cache.
func (c *frameCache) load(ctx context.Context, missing []uint32) error {
	if len(missing) == 0 {
		return nil
	}
	fresh := make([]*cachedFrame, len(missing))
	for i, f := range missing {
		fresh[i] = &cachedFrame{index: f, data: c.room(i)}
	}
	for len(c.readers) < min(workers(0), len(missing)) {
		c.readers = append(c.readers, &frameReader{r: c.r})
	}
	errs := make([]error, len(c.readers))
	var wg sync.WaitGroup
	for n, fr := range c.readers {
		wg.Go(func() {
			for i := n; i < len(fresh) && errs[n] == nil; i += len(c.readers) {
				errs[n] = fr.readInto(ctx, fresh[i])
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	for _, f := range fresh {
		c.frames[f.index] = c.order.PushFront(f)
	}
	return nil
}

// readInto reads and checks a frame into the cache's own memory.
func (fr *frameReader) readInto(ctx context.Context, f *cachedFrame) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	data, err := fr.read(f.index)
	if err == nil {
		f.data = append(f.data[:0], data...)
	}
	return err
}

// room returns memory for one more frame besides those pending, that of the one used longest ago if there are enough.
func (c *frameCache) room(pending int) []byte {
	if c.order.Len()+pending < c.most {
		return nil
	}
	e := c.order.Back()
	f := c.order.Remove(e).(*cachedFrame)
	delete(c.frames, f.index)
	return f.data
}

// close releases the decoders.
func (c *frameCache) close() {
	for _, fr := range c.readers {
		fr.close()
	}
	c.readers = nil
}
