package image

import (
	"encoding/binary"
	"io"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// Sizes of the records of a page map in bytes.
const (
	mapHead   = 16
	frameSize = 32
	runSize   = 24
)

// Values of run.frame that name no frame.
const (
	frameZero = ^uint32(0)     // the pages are zero
	frameGone = ^uint32(0) - 1 // the pages were discarded; only while writing
	frameSame = ^uint32(0) - 2 // the pages are those that space run.off has at the same address; only while writing
)

// frame is one independently decodable stretch of a data file.
type frame struct {
	image  uint32 // index into pageMap.images
	codec  codec
	offset uint64 // of the stored bytes in that image's data file
	stored uint32 // bytes in the file
	raw    uint32 // bytes when decoded
	sum    uint64 // xxhash64 of the stored bytes
}

// end is the offset after the stored bytes.
func (f *frame) end() uint64 { return f.offset + uint64(f.stored) }

// run is one line of the page map: pages of a space that lie one after the other in a frame, or are all zero.
type run struct {
	addr  uint64
	space model.Space
	pages uint32
	frame uint32
	off   uint32 // pages into the decoded frame
}

// stored reports whether the pages of a run lie in a frame.
func (r *run) stored() bool { return r.frame < frameSame }

// end is the address after the run.
func (r *run) end() uint64 { return r.addr + uint64(r.pages)*model.PageSize }

// pageMap says where every page of an image is.
type pageMap struct {
	images []string // ids of the images that frames lie in; the first is the image itself
	frames []frame  // by image, those of the image itself in the order of the file
	runs   []run    // ascending by space and address, disjoint
}

// size is the length of the encoded map in bytes.
func (m *pageMap) size() int64 {
	return mapHead + int64(len(m.images))*idField + int64(len(m.frames))*frameSize + int64(len(m.runs))*runSize
}

// write encodes the map.
func (m *pageMap) write(w io.Writer) error {
	le := binary.LittleEndian
	b := make([]byte, 0, 64<<10)
	b = le.AppendUint32(b, uint32(len(m.images)))
	b = le.AppendUint32(b, uint32(len(m.frames)))
	b = le.AppendUint64(b, uint64(len(m.runs)))
	flush := func(room int) error {
		if len(b)+room <= cap(b) {
			return nil
		}
		_, err := w.Write(b)
		b = b[:0]
		return err
	}
	for _, id := range m.images {
		b = append(b, id...)
		b = append(b, make([]byte, idField-len(id))...)
		if err := flush(frameSize); err != nil {
			return err
		}
	}
	for _, f := range m.frames {
		b = le.AppendUint32(b, f.image)
		b = le.AppendUint32(b, uint32(f.codec))
		b = le.AppendUint64(b, f.offset)
		b = le.AppendUint32(b, f.stored)
		b = le.AppendUint32(b, f.raw)
		b = le.AppendUint64(b, f.sum)
		if err := flush(frameSize); err != nil {
			return err
		}
	}
	for _, r := range m.runs {
		b = le.AppendUint64(b, r.addr)
		b = le.AppendUint32(b, uint32(r.space))
		b = le.AppendUint32(b, r.pages)
		b = le.AppendUint32(b, r.frame)
		b = le.AppendUint32(b, r.off)
		if err := flush(frameSize); err != nil {
			return err
		}
	}
	_, err := w.Write(b)
	return err
}

// readPageMap decodes a map of length bytes and checks each record against the ones before it, so that a hostile file
// costs no more memory than it has sound records. path is for messages, id the image the map belongs to.
func readPageMap(path, id string, in io.Reader, length uint64) (*pageMap, error) {
	bad := func(format string, args ...any) error { return fault.New(fault.ImageMap, path, format, args...) }
	le := binary.LittleEndian
	records := batches{in: in}
	b, err := records.next(mapHead, 1)
	if err != nil {
		return nil, readFault(path, err)
	}
	images, frames, runs := le.Uint32(b), le.Uint32(b[4:]), le.Uint64(b[8:])
	if images == 0 || images > maxImages || runs > length/runSize ||
		length != mapHead+uint64(images)*idField+uint64(frames)*frameSize+runs*runSize {
		return nil, fault.New(fault.ImageSize, path, "%d images, %d frames and %d runs do not make %d bytes", images,
			frames, runs, length)
	}
	m := &pageMap{}
	for i := range images {
		if b, err = records.next(idField, uint64(images-i)); err != nil {
			return nil, readFault(path, err)
		}
		other := trimID(b)
		if !isID(other) || (i == 0) != (other == id) || slices.Contains(m.images, other) {
			return nil, bad("image %d of the map is %q", i, other)
		}
		m.images = append(m.images, other)
	}
	own := uint64(dataStart)
	for i := range frames {
		if b, err = records.next(frameSize, uint64(frames-i)); err != nil {
			return nil, readFault(path, err)
		}
		f := frame{
			image: le.Uint32(b), codec: codec(le.Uint32(b[4:])), offset: le.Uint64(b[8:]),
			stored: le.Uint32(b[16:]), raw: le.Uint32(b[20:]), sum: le.Uint64(b[24:]),
		}
		if why := f.check(images, own); why != "" {
			return nil, bad("frame %d: %s", i, why)
		}
		if i > 0 && f.image < m.frames[i-1].image {
			return nil, bad("frame %d: it is out of order", i)
		}
		if f.image == 0 {
			own = f.end()
		}
		m.frames = append(grown(m.frames, uint64(frames)), f)
	}
	for i := range runs {
		if b, err = records.next(runSize, runs-i); err != nil {
			return nil, readFault(path, err)
		}
		r := run{
			addr: le.Uint64(b), space: model.Space(le.Uint32(b[8:])), pages: le.Uint32(b[12:]),
			frame: le.Uint32(b[16:]), off: le.Uint32(b[20:]),
		}
		if why := m.checkRun(&r); why != "" {
			return nil, bad("run %d (space %d, %#x): %s", i, r.space, r.addr, why)
		}
		m.runs = append(grown(m.runs, runs), r)
	}
	return m, nil
}

// batches reads records of a fixed size, many at a time: an image written here and there has some hundred thousand.
type batches struct {
	in   io.Reader
	buf  []byte
	left []byte // of buf, not handed out
}

// next returns the next record, which is good until the call after it. left is how many are still to come, this one
// included.
func (b *batches) next(size int, left uint64) ([]byte, error) {
	if len(b.left) == 0 {
		if b.buf == nil {
			b.buf = make([]byte, 64<<10)
		}
		b.left = b.buf[:size*int(min(uint64(len(b.buf)/size), left))]
		if _, err := io.ReadFull(b.in, b.left); err != nil {
			return nil, err
		}
	}
	rec := b.left[:size:size]
	b.left = b.left[size:]
	return rec, nil
}

// grown is list with room for one more of the total that a file claims to have: for as many again as there are, so that
// it takes no more memory than twice its sound records, and is copied a few times only.
func grown[T any](list []T, total uint64) []T {
	if len(list) < cap(list) {
		return list
	}
	return slices.Grow(list, int(min(total-uint64(len(list)), uint64(max(len(list), 1024)))))
}

// check tells what is wrong with a frame, "" if nothing. images is how many the map names, own the end of the image's
// own frame before this one: own frames lie without gaps, but for the alignment of raw ones.
func (f *frame) check(images uint32, own uint64) string {
	switch {
	case f.image >= images:
		return "it lies in an image the map does not name"
	case f.raw == 0 || f.raw > maxFrame || f.raw%model.PageSize != 0:
		return "its decoded size is absurd"
	case f.offset < dataStart || f.offset > 1<<62:
		return "its offset is absurd"
	case f.codec == codecRaw && (f.stored != f.raw || f.offset%model.PageSize != 0):
		return "it is raw, but not aligned or of another size"
	case f.codec == codecZstd && (f.stored == 0 || f.stored >= f.raw):
		return "it is compressed, but not smaller"
	case f.codec > codecZstd:
		return "its codec is unknown"
	case f.image == 0 && f.offset != place(own, f.codec):
		return "it does not follow the one before"
	}
	return ""
}

// place is where a frame goes if the one before ends at end.
func place(end uint64, c codec) uint64 {
	if c == codecRaw {
		return alignUp(end)
	}
	return end
}

// alignUp rounds n up to a multiple of the page size.
func alignUp(n uint64) uint64 { return (n + model.PageSize - 1) &^ (model.PageSize - 1) }

// checkRun tells what is wrong with the run that is to follow m.runs, "" if nothing.
func (m *pageMap) checkRun(r *run) string {
	switch {
	case r.space == 0:
		return "space 0 has no pages"
	case r.pages == 0:
		return "it is empty"
	case r.addr%model.PageSize != 0:
		return "it is not aligned"
	case r.addr > model.MaxAddr || r.end() > model.MaxAddr:
		return "it reaches beyond the address space"
	case r.frame == frameZero && r.off != 0:
		return "it is zero, yet has an offset"
	case r.frame != frameZero && uint64(r.frame) >= uint64(len(m.frames)):
		return "it names a frame that does not exist"
	case r.frame != frameZero && uint64(r.off)+uint64(r.pages) > uint64(m.frames[r.frame].raw)/model.PageSize:
		return "it reaches beyond its frame"
	}
	if n := len(m.runs); n > 0 {
		last := &m.runs[n-1]
		if r.space < last.space || r.space == last.space && r.addr < last.end() {
			return "it overlaps the one before, or is out of order"
		}
	}
	return ""
}

// of returns the runs of a space.
func (m *pageMap) of(space model.Space) []run {
	find := func(s model.Space) int {
		i, _ := slices.BinarySearchFunc(m.runs, s, func(r run, s model.Space) int {
			if r.space < s {
				return -1
			}
			return 1
		})
		return i
	}
	if space == ^model.Space(0) {
		return m.runs[find(space):]
	}
	return m.runs[find(space):find(space+1)]
}

// largest returns the sizes of the largest decoded and of the largest compressed frame.
func (m *pageMap) largest() (raw, stored uint32) {
	for i := range m.frames {
		f := &m.frames[i]
		raw = max(raw, f.raw)
		if f.codec != codecRaw {
			stored = max(stored, f.stored)
		}
	}
	return raw, stored
}

// gapStart is where the padding before frame i of the image itself begins.
func (m *pageMap) gapStart(i uint32) uint64 {
	if i == 0 {
		return dataStart
	}
	return m.frames[i-1].end()
}

// own is how many frames are the image's own; they come first.
func (m *pageMap) own() int {
	n, _ := slices.BinarySearchFunc(m.frames, 1, func(f frame, image int) int { return int(f.image) - image })
	return n
}

// ownEnd is the offset after the last frame of the image's own data file.
func (m *pageMap) ownEnd() uint64 {
	end := uint64(dataStart)
	for i := range m.frames {
		if f := &m.frames[i]; f.image == 0 {
			end = f.end()
		}
	}
	return end
}
