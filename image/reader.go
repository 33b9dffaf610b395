package image

import (
	"fmt"
	"io"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// Reader reads one image. It is safe for concurrent use.
type Reader struct {
	store   Store
	from    source // of the image's own parts
	rec     *infoRecord
	info    Info
	state   *model.State
	extra   []stateRecord // of the state, which this release does not understand and need not
	pages   *pageMap
	mapName string     // of the page map, for messages
	data    []PartFile // data files, by index into pages.images
	done    func()     // lets the store go, nil if that is the caller's
}

// Open opens an image: "DIR" is the head of a store, "DIR@NAME" and "DIR@ID" any image; the beginning of an id will do
// if it fits one only. Everything but the page data is checked. The faults are E_IMAGE_*, whose class is exit code 5,
// and E_STORE_* if there is no such image.
func Open(ref string) (*Reader, error) { return openRef(ref, beneath.OfOurs) }

// View is Open for who only looks at the image, and runs nothing of it: the store may be anybody's.
func View(ref string) (*Reader, error) { return openRef(ref, beneath.OfAnyone) }

func openRef(ref string, t beneath.Trust) (*Reader, error) {
	dir, name, err := SplitRef(ref)
	if err != nil {
		return nil, err
	}
	im, done := imagesIn(dir, t)
	r, err := im.Open(name)
	if err != nil {
		done()
		return nil, err
	}
	r.done = done
	return r, nil
}

// Open opens an image by its name, its id or the beginning of that; "" is the head. It is as the function Open.
func (im Images) Open(name string) (*Reader, error) {
	id, err := im.resolve(name)
	if err != nil {
		return nil, err
	}
	return openImage(im.store, published{im.store, id}, id)
}

// openImage opens the image whose own parts are in from.
func openImage(store Store, from source, id string) (*Reader, error) {
	rec, err := readInfo(from, PartInfo, id)
	if err != nil {
		return nil, err
	}
	r := &Reader{store: store, from: from, rec: rec, info: rec.info(store.Name())}
	if r.state, r.extra, err = readState(from, id, rec.State); err != nil {
		return nil, err
	}
	if r.pages, err = r.readPages(); err != nil {
		return nil, err
	}
	if !slices.Equal(r.rec.Referenced, r.pages.images[1:]) {
		return nil, r.mapFault("it references other images than %s says", PartInfo)
	}
	if err := checkSpaces(r.state, r.pages); err != nil {
		return nil, r.mapFault("%w", err)
	}
	if err = r.openData(); err == nil {
		err = r.readContents()
	}
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// mapFault is a fault about the page map, which was read.
func (r *Reader) mapFault(format string, args ...any) error {
	return fault.New(fault.ImageMap, r.mapName, format, args...)
}

// readPages reads the page map.
func (r *Reader) readPages() (*pageMap, error) {
	f, h, err := openBound(r.from, kindPages, r.rec.ID, r.rec.Pages)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	r.mapName = f.Name()
	if h.codec != codecRaw {
		return nil, fault.New(fault.ImageDamaged, f.Name(), "a page map is not compressed")
	}
	sum := xxhash.New()
	body := io.TeeReader(io.NewSectionReader(f, headerSize, int64(h.length)), sum)
	m, err := readPageMap(f.Name(), r.rec.ID, body, h.length)
	if err != nil {
		return nil, err
	}
	if sum.Sum64() != h.sum {
		return nil, fault.New(fault.ImageDamaged, f.Name(), "the checksum of its content does not match")
	}
	return m, nil
}

// openData opens the data files that the page map names.
func (r *Reader) openData() error {
	for i, id := range r.pages.images {
		from := r.from
		if i > 0 {
			from = published{r.store, id}
		}
		f, h, err := openPart(from, PartData, kindData, id)
		if err != nil {
			return err
		}
		r.data = append(r.data, f)
		size := h.length + headerSize
		if h.sum != 0 || h.codec != codecRaw || size < dataStart {
			return fault.New(fault.ImageDamaged, f.Name(), "its header is not that of a data file")
		}
		if i == 0 && (size != r.pages.ownEnd() || int64(size) != r.rec.Data.Size || r.rec.Data.Sum != 0) {
			return fault.New(fault.ImageTruncated, f.Name(), "it has %d bytes, the page map says %d", size,
				r.pages.ownEnd())
		}
		if err := checkPadding(f); err != nil {
			return err
		}
		for n := range r.pages.frames {
			if fr := &r.pages.frames[n]; fr.image == uint32(i) && fr.end() > size {
				return fault.New(fault.ImageTruncated, f.Name(),
					"frame %d of the page map of image %s lies beyond its end", n, r.rec.ID)
			}
		}
	}
	return nil
}

// checkPadding checks that what follows the header of a data file, up to the first frame, is zero.
func checkPadding(f PartFile) error {
	b := make([]byte, dataStart-headerSize)
	if _, err := f.ReadAt(b, headerSize); err != nil {
		return readFault(f.Name(), err)
	}
	if !isZero(b) {
		return fault.New(fault.ImageDamaged, f.Name(), "the padding at byte %d is not zero", headerSize)
	}
	return nil
}

// Close releases the files. State and Info stay usable.
func (r *Reader) Close() error {
	for _, f := range r.data {
		_ = f.Close() // opened for reading: there is nothing to lose
	}
	r.data = nil
	if r.done != nil {
		r.done()
	}
	return nil
}

// State returns the state. It belongs to the caller, who may change it; the next call returns the same one.
func (r *Reader) State() *model.State { return r.state }

// Skipped names the records of the state that a later version has written, that this release does not understand and
// that it can do without: "socket 2", the kind and its version.
func (r *Reader) Skipped() []string {
	var names []string
	for i := range r.extra {
		names = append(names, r.extra[i].String())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Info describes the image.
func (r *Reader) Info() Info { return r.info }

// Runs returns the runs of a space by ascending address; neighbours of one kind are joined.
func (r *Reader) Runs(space model.Space) []Run {
	var out []Run
	for _, m := range r.pages.of(space) {
		kind := Data
		if m.frame == frameZero {
			kind = Zero
		}
		if n := len(out); n > 0 && out[n-1].Kind == kind && out[n-1].Addr+out[n-1].Pages*model.PageSize == m.addr {
			out[n-1].Pages += uint64(m.pages)
			continue
		}
		out = append(out, Run{Addr: m.addr, Pages: uint64(m.pages), Kind: kind})
	}
	return out
}

// checkSpaces checks that every run lies in something the state knows: a mapping of a process, or the content of a
// shared memory object, an unlinked file or a pipe.
func checkSpaces(st *model.State, m *pageMap) error {
	vmas := map[model.Space][]model.VMA{}
	sizes := map[model.Space]uint64{}
	for i := range st.Processes {
		if p := &st.Processes[i]; p.Space != 0 {
			vmas[p.Space] = p.VMAs
		}
	}
	for i := range st.Shmems {
		sizes[st.Shmems[i].Space] = alignUp(uint64(st.Shmems[i].Size))
	}
	for i := range st.Unlinked {
		sizes[st.Unlinked[i].Space] = alignUp(uint64(st.Unlinked[i].Size))
	}
	for i := range st.Pipes {
		if p := &st.Pipes[i]; p.Space != 0 {
			sizes[p.Space] = alignUp(uint64(p.Size))
		}
	}
	for i := range st.Named {
		sizes[st.Named[i].Space] = alignUp(uint64(st.Named[i].Size))
	}
	space, next := model.Space(0), []model.VMA(nil)
	for i := range m.runs {
		r := &m.runs[i]
		if size, ok := sizes[r.space]; ok {
			if r.end() > size {
				return fmt.Errorf("pages %#x-%#x of space %d lie beyond its %d bytes", r.addr, r.end(), r.space, size)
			}
			continue
		}
		if r.space != space {
			space, next = r.space, vmas[r.space]
		}
		if next = dropBelow(next, r.addr); !covers(next, r.addr, r.end()) {
			return fmt.Errorf("pages %#x-%#x of space %d are not mapped in the state", r.addr, r.end(), r.space)
		}
	}
	return nil
}

// dropBelow drops the mappings that end at addr or below.
func dropBelow(vmas []model.VMA, addr uint64) []model.VMA {
	for len(vmas) > 0 && vmas[0].End <= addr {
		vmas = vmas[1:]
	}
	return vmas
}

// covers reports whether the first of the mappings cover all addresses from start to end.
func covers(vmas []model.VMA, start, end uint64) bool {
	for start < end {
		if len(vmas) == 0 || vmas[0].Start > start {
			return false
		}
		start, vmas = vmas[0].End, vmas[1:]
	}
	return true
}
