package image

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Reader reads one image. It is safe for concurrent use.
type Reader struct {
	dir   string // of the image's files
	rec   *infoRecord
	info  Info
	state *State
	extra []stateRecord // of the state, which this release does not understand and need not
	pages *pageMap
	data  []*os.File // data files, by index into pages.images
}

// Open opens an image: "DIR" is the head of a store, "DIR@NAME" and "DIR@ID" any image; the beginning of an id will do
// if it fits one only. Everything but the page data is checked. The faults are E_IMAGE_*, whose class is exit code 5,
// and E_STORE_* if there is no such image.
func Open(ref string) (*Reader, error) {
	store, id, err := resolve(ref)
	if err != nil {
		return nil, err
	}
	return openImage(store, filepath.Join(store, imagesDir, id), id)
}

// openImage opens the image whose files are in dir.
func openImage(store, dir, id string) (*Reader, error) {
	rec, err := readInfo(dir, id)
	if err != nil {
		return nil, err
	}
	r := &Reader{dir: dir, rec: rec, info: rec.info(store)}
	if r.state, r.extra, err = readState(dir, id, rec.State); err != nil {
		return nil, err
	}
	if r.pages, err = r.readPages(); err != nil {
		return nil, err
	}
	if !slices.Equal(r.rec.Lenders, r.pages.images[1:]) {
		return nil, fault.New(fault.ImageMap, filepath.Join(dir, fileNames[kindPages]),
			"it borrows from other images than %s says", fileNames[kindInfo])
	}
	if err := checkSpaces(r.state, r.pages); err != nil {
		return nil, fault.New(fault.ImageMap, filepath.Join(dir, fileNames[kindPages]), "%w", err)
	}
	if err := r.openData(store); err != nil {
		_ = r.Close()
		return nil, err
	}
	if err := r.readContents(); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// readPages reads the page map.
func (r *Reader) readPages() (*pageMap, error) {
	f, h, err := openBound(r.dir, kindPages, r.rec.ID, r.rec.Pages)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
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
func (r *Reader) openData(store string) error {
	for i, id := range r.pages.images {
		dir := r.dir
		if i > 0 {
			dir = filepath.Join(store, imagesDir, id)
		}
		f, h, err := openImageFile(dir, kindData, id)
		if err != nil {
			return err
		}
		share(f)
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
func checkPadding(f *os.File) error {
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
	return nil
}

// State returns the state. It belongs to the caller, who may change it; the next call returns the same one.
func (r *Reader) State() *State { return r.state }

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
func (r *Reader) Runs(space Space) []Run {
	var out []Run
	for _, m := range r.pages.of(space) {
		kind := Data
		if m.frame == frameZero {
			kind = Zero
		}
		if n := len(out); n > 0 && out[n-1].Kind == kind && out[n-1].Addr+out[n-1].Pages*PageSize == m.addr {
			out[n-1].Pages += uint64(m.pages)
			continue
		}
		out = append(out, Run{Addr: m.addr, Pages: uint64(m.pages), Kind: kind})
	}
	return out
}

// checkSpaces checks that every run lies in something the state knows: a mapping of a process, or the content of a
// shared memory object, a ghost or a pipe.
func checkSpaces(st *State, m *pageMap) error {
	vmas := map[Space][]VMA{}
	sizes := map[Space]uint64{}
	for i := range st.Processes {
		if p := &st.Processes[i]; p.Space != 0 {
			vmas[p.Space] = p.VMAs
		}
	}
	for i := range st.Shmems {
		sizes[st.Shmems[i].Space] = alignUp(uint64(st.Shmems[i].Size))
	}
	for i := range st.Ghosts {
		sizes[st.Ghosts[i].Space] = alignUp(uint64(st.Ghosts[i].Size))
	}
	for i := range st.Pipes {
		if p := &st.Pipes[i]; p.Space != 0 {
			sizes[p.Space] = alignUp(uint64(p.Size))
		}
	}
	for i := range st.Named {
		sizes[st.Named[i].Space] = alignUp(uint64(st.Named[i].Size))
	}
	space, next := Space(0), []VMA(nil)
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
func dropBelow(vmas []VMA, addr uint64) []VMA {
	for len(vmas) > 0 && vmas[0].End <= addr {
		vmas = vmas[1:]
	}
	return vmas
}

// covers reports whether the first of the mappings cover all addresses from start to end.
func covers(vmas []VMA, start, end uint64) bool {
	for start < end {
		if len(vmas) == 0 || vmas[0].Start > start {
			return false
		}
		start, vmas = vmas[0].End, vmas[1:]
	}
	return true
}
