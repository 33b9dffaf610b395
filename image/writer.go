package image

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sync/errgroup"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// errClosed is returned for calls after Commit or Abort.
var errClosed = errors.New("the image was already committed or aborted")

// Writer makes one image. One goroutine uses it. Its memory is bounded: at most 3 MiB and a compressor's tables for
// each worker, and 24 bytes for each run of the page map.
type Writer struct {
	ws      *workspace
	opts    WriteOptions
	created time.Time
	data    DraftFile
	enc     *encoder
	runs    runList
	buf     []byte // of the frame being filled, nil if none
	frames  int    // handed to the encoder
	written uint64 // data pages
	parent  *parent
	notes   Notes
	replace *Info         // the image this one takes the place of, nil for a new one
	extra   []stateRecord // of that image, which this release does not understand and keeps
	release func()        // lets the store go, nil if that is the caller's
	done    bool
}

// Create begins an image in the store dir, which it makes if it is not there or empty. Writers of the same store do not
// disturb each other; what dead ones left is removed. The caller must end it with Commit or Abort. The faults are
// E_STORE_*.
func Create(dir string, o WriteOptions) (*Writer, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, writeFault(dir, err)
	}
	im, done := imagesIn(abs, beneath.OfOurs)
	w, err := im.Create(o)
	if err != nil {
		done()
		return nil, err
	}
	w.release = done
	return w, nil
}

// Create begins an image in a store, as the function Create does.
func (im Images) Create(o WriteOptions) (*Writer, error) {
	level, err := ParseLevel(string(o.Level))
	if err != nil {
		return nil, err
	}
	o.Level = level
	ws, err := im.newWorkspace(&o)
	if err != nil {
		return nil, err
	}
	return newWriter(ws, o)
}

// newWriter begins the files of an image.
func newWriter(ws *workspace, o WriteOptions) (*Writer, error) {
	w := &Writer{ws: ws, opts: o, created: time.Now()}
	if err := w.openData(); err != nil {
		w.Abort()
		return nil, writeFault(ws.store, err)
	}
	return w, nil
}

// Note records what the image's Info says of the snapshot.
func (w *Writer) Note(n Notes) { w.notes = n }

// openData makes the data file and starts the workers.
func (w *Writer) openData() error {
	f, err := w.ws.draft.Create(PartData)
	if err != nil {
		return err
	}
	w.data = f
	w.enc, err = newFrameEncoder(f, w.opts.Level, workers(w.opts.Workers))
	return err
}

// Write adds pages of a space: addr and the length of data are multiples of PageSize. data is copied or encoded before
// Write returns. Pages that are all zero are only noted. What was written before for the same addresses is replaced.
// Write waits if the workers are behind. The faults are E_STORE_*; after one the image can only be aborted.
func (w *Writer) Write(space model.Space, addr uint64, data []byte) error {
	return w.write(space, addr, data, nil)
}

// Lend is Write without a copy: data must not change until done is called, once, from any goroutine, perhaps before
// Lend returns. It is called after an error too, at the latest by the time Commit or Abort returns.
func (w *Writer) Lend(space model.Space, addr uint64, data []byte, done func()) error {
	of := &loan{done: done}
	of.left.Store(1)
	defer of.release()
	return w.write(space, addr, data, of)
}

// write is Write, and with a loan Lend.
func (w *Writer) write(space model.Space, addr uint64, data []byte, of *loan) error {
	if err := w.check(space, addr, uint64(len(data))); err != nil {
		return err
	}
	for len(data) > 0 {
		zero := isZero(data[:model.PageSize])
		n := model.PageSize
		for n < len(data) && isZero(data[n:n+model.PageSize]) == zero {
			n += model.PageSize
		}
		if zero {
			w.addEmpty(space, addr, uint64(n)/model.PageSize, frameZero)
		} else {
			w.addData(space, addr, data[:n], of)
		}
		data, addr = data[n:], addr+uint64(n)
	}
	return w.workerFault()
}

// Zero records pages that are known to be all zero.
func (w *Writer) Zero(space model.Space, addr, pages uint64) error {
	if err := w.check(space, addr, bytesOf(pages)); err != nil {
		return err
	}
	w.addEmpty(space, addr, pages, frameZero)
	return nil
}

// Discard forgets what was written before for pages that have vanished since.
func (w *Writer) Discard(space model.Space, addr, pages uint64) error {
	if err := w.check(space, addr, bytesOf(pages)); err != nil {
		return err
	}
	w.addEmpty(space, addr, pages, frameGone)
	return nil
}

// Same records that pages of a space are those that the image will have at the same address of another one: pages that
// processes share since fork(2), stored once. What is written for space afterwards lies on top.
func (w *Writer) Same(space model.Space, addr, pages uint64, from model.Space) error {
	if err := w.check(space, addr, bytesOf(pages)); err != nil {
		return err
	}
	if from == 0 || from == space {
		return fault.New(fault.StoreRefused, w.ws.id, "space %d cannot have the pages of space %d", space, from)
	}
	w.same(space, addr, pages, from)
	return nil
}

// same is Same for what is known to be right.
func (w *Writer) same(space model.Space, addr, pages uint64, from model.Space) {
	w.runs.addLong(run{addr: addr, space: space, frame: frameSame, off: uint32(from)}, pages)
}

// bytesOf is the length of pages in bytes, or a number beyond every address.
func bytesOf(pages uint64) uint64 {
	if pages > model.MaxAddr/model.PageSize {
		return ^uint64(0) &^ (model.PageSize - 1)
	}
	return pages * model.PageSize
}

// check refuses what no page map can hold.
func (w *Writer) check(space model.Space, addr, n uint64) error {
	switch {
	case w.done:
		return errClosed
	case space == 0 || addr%model.PageSize != 0 || n%model.PageSize != 0 || addr > model.MaxAddr || n > model.MaxAddr-addr:
		return fault.New(fault.StoreRefused, w.ws.id, "%d bytes at %#x of space %d are not pages", n, addr, space)
	}
	return nil
}

// addEmpty records pages without content.
func (w *Writer) addEmpty(space model.Space, addr, pages uint64, frame uint32) {
	w.runs.addLong(run{addr: addr, space: space, frame: frame}, pages)
}

// lentFrame is how many bytes of lent memory make a frame of their own; fewer are copied, to make larger frames of
// them.
const lentFrame = 256 << 10

// addData makes frames of pages, of the memory itself if that is lent.
func (w *Writer) addData(space model.Space, addr uint64, data []byte, of *loan) {
	w.written += uint64(len(data)) / model.PageSize
	for len(data) > 0 {
		if of != nil && w.buf == nil && len(data) >= lentFrame {
			n := min(len(data), maxFrame)
			w.runs.add(run{addr: addr, space: space, pages: uint32(n / model.PageSize), frame: uint32(w.frames)})
			w.enc.submitLent(w.frames, data[:n:n], of)
			w.frames++
			data, addr = data[n:], addr+uint64(n)
			continue
		}
		if w.buf == nil {
			w.buf = w.enc.buffer()
		}
		n := min(len(data), cap(w.buf)-len(w.buf))
		w.runs.add(run{
			addr: addr, space: space, pages: uint32(n / model.PageSize),
			frame: uint32(w.frames), off: uint32(len(w.buf) / model.PageSize),
		})
		w.buf = append(w.buf, data[:n]...)
		data, addr = data[n:], addr+uint64(n)
		if len(w.buf) == cap(w.buf) {
			w.submit()
		}
	}
}

// submit hands the current frame to the workers.
func (w *Writer) submit() {
	w.enc.submit(w.frames, w.buf)
	w.frames++
	w.buf = nil
}

// workerFault returns the first error of a worker as a fault.
func (w *Writer) workerFault() error {
	if err := w.enc.failed(); err != nil {
		return writeFault(w.ws.store, err)
	}
	return nil
}

// Commit adds the state, makes everything durable, reads it back, and publishes the image by a rename; then it is the
// store's head. Should any of that fail nothing of the image stays and the fault is E_STORE_*.
func (w *Writer) Commit(st *model.State) (Info, error) {
	if w.done {
		return Info{}, errClosed
	}
	info, err := w.commit(st)
	if err != nil {
		err = writeFault(w.ws.store, err)
		w.Abort()
		return Info{}, err
	}
	w.end()
	return info, nil
}

// commit does the work of Commit and leaves the cleaning up to it.
func (w *Writer) commit(st *model.State) (Info, error) {
	if err := st.Validate(); err != nil {
		return Info{}, fault.New(fault.StoreRefused, w.ws.id, "%w", err)
	}
	if err := w.checkParent(st); err != nil {
		return Info{}, err
	}
	st, err := w.storeContents(st)
	if err != nil {
		return Info{}, err
	}
	m, err := w.finishMap()
	if err != nil {
		return Info{}, err
	}
	if err := checkSpaces(st, m); err != nil {
		return Info{}, fault.New(fault.StoreRefused, w.ws.id, "%w", err)
	}
	rec := w.record(st, m)
	if err := w.writeFiles(rec, st, m); err != nil {
		return Info{}, err
	}
	if err := w.readBack(st, m); err != nil {
		return Info{}, err
	}
	if err := w.ws.publish(w.opts.Name, w.replace); err != nil {
		return Info{}, err
	}
	w.closeParent()
	return rec.info(w.ws.store), nil
}

// finishMap ends the data file's frames and puts the page map together.
func (w *Writer) finishMap() (*pageMap, error) {
	runs, err := w.runs.resolve(), error(nil)
	w.runs = nil
	if slices.ContainsFunc(runs, func(r run) bool { return r.frame == frameSame }) {
		return nil, fault.New(fault.StoreRefused, w.ws.id, "spaces are said to have each other's pages")
	}
	if w.parent != nil {
		if runs, err = w.absorb(runs); err != nil {
			return nil, err
		}
		w.runs = nil
	}
	if w.buf != nil {
		w.submit()
	}
	enc := w.enc
	w.enc = nil
	frames, err := enc.close()
	if err != nil {
		return nil, err
	}
	return w.pageMap(frames, runs), nil
}

// record is what the image is, as far as it is known before its files are written.
func (w *Writer) record(st *model.State, m *pageMap) *infoRecord {
	rec := &infoRecord{
		ID: w.ws.id, Name: w.opts.Name, Parent: w.opts.Parent, Created: w.created.UnixNano(), Level: w.opts.Level,
		PagesWritten: w.written, Moment: st.Kernel.Realtime, Freeze: w.notes.Freeze, Tracking: w.notes.Tracking,
		Boot: st.Kernel.BootID, PidNS: st.Kernel.PidNS, Pid: st.Root,
	}
	if len(m.images) > 1 {
		rec.Referenced = m.images[1:]
	}
	if p := processOf(st, st.Root); p != nil {
		rec.Start = p.Start
	}
	if w.replace != nil {
		old := w.replace
		rec.Replaces = append([]string{old.ID}, old.Replaces[:min(len(old.Replaces), maxReplaced-1)]...)
		rec.Parent, rec.Created = old.Parent, old.Created
	}
	own := uint32(m.own())
	for i := range m.runs {
		switch f := m.runs[i].frame; {
		case f == frameZero:
			rec.PagesZero += uint64(m.runs[i].pages)
		case f >= own:
			rec.PagesShared += uint64(m.runs[i].pages)
		}
	}
	return rec
}

// writeFiles writes everything but the frames, and syncs it all.
func (w *Writer) writeFiles(rec *infoRecord, st *model.State, m *pageMap) error {
	var syncs syncer
	err := w.writeParts(rec, st, m, &syncs)
	if err = errors.Join(err, syncs.wait()); err != nil {
		return err
	}
	return w.ws.draft.Sync()
}

// writeParts leaves files that are not durable yet to syncs.
func (w *Writer) writeParts(rec *infoRecord, st *model.State, m *pageMap, syncs *syncer) error {
	var err error
	if rec.Data, err = w.finishData(m, syncs); err != nil {
		return err
	}
	raw, err := encodeState(st)
	if err != nil {
		return fmt.Errorf("encode the state: %w", err)
	}
	for i := range w.extra {
		raw = w.extra[i].append(raw)
	}
	if rec.State, err = w.writeState(raw, syncs); err != nil {
		return err
	}
	if rec.Pages, err = w.writePages(m, syncs); err != nil {
		return err
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode the info: %w", err)
	}
	h := header{kind: kindInfo, id: w.ws.id, length: uint64(len(b)), raw: uint64(len(b)), sum: xxhash.Sum64(b)}
	return w.createPart(PartInfo, syncs, h.encode(), b)
}

// createPart writes a part, which is not durable yet.
func (w *Writer) createPart(p Part, syncs *syncer, chunks ...[]byte) error {
	f, err := w.ws.draft.Create(p)
	if err != nil {
		return err
	}
	for _, c := range chunks {
		if _, err := f.Write(c); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	syncs.add(f)
	return nil
}

// finishData writes the header of the data file.
func (w *Writer) finishData(m *pageMap, syncs *syncer) (fileRecord, error) {
	size := m.ownEnd()
	h := header{kind: kindData, id: w.ws.id, length: size - headerSize, raw: size - headerSize}
	start := make([]byte, dataStart)
	copy(start, h.encode())
	_, err := w.data.WriteAt(start, 0)
	syncs.add(w.data)
	w.data = nil
	return fileRecord{Size: int64(size)}, err
}

// writePages writes the page map. Its sum is known only when all of it is written, and the header follows then.
func (w *Writer) writePages(m *pageMap, syncs *syncer) (fileRecord, error) {
	f, err := w.ws.draft.Create(PartPages)
	if err != nil {
		return fileRecord{}, err
	}
	sum := xxhash.New()
	body := bufio.NewWriter(io.NewOffsetWriter(f, headerSize))
	err = m.write(io.MultiWriter(body, sum))
	if err == nil {
		err = body.Flush()
	}
	n := uint64(m.size())
	h := header{kind: kindPages, id: w.ws.id, length: n, raw: n, sum: sum.Sum64()}
	if err == nil {
		_, err = f.WriteAt(h.encode(), 0)
	}
	syncs.add(f)
	return fileRecord{Size: headerSize + int64(n), Sum: h.sum}, err
}

// readBack opens the finished image like any reader, compares its state and its page map with those in memory, and
// checks every frame. Whether the state that was read can be brought back, Accept decides.
func (w *Writer) readBack(st *model.State, m *pageMap) error {
	r, err := openImage(w.ws.images.store, w.ws.draft, w.ws.id)
	if err != nil {
		return fault.New(fault.StoreIO, w.ws.store, "what was written reads back differently: %w", err)
	}
	defer func() { _ = r.Close() }()
	if !slices.Equal(r.pages.frames, m.frames) || !slices.Equal(r.pages.runs, m.runs) {
		return fault.New(fault.StoreIO, w.ws.store, "the page map reads back differently")
	}
	var both errgroup.Group
	both.Go(func() error {
		// Frames of other images were read back when they were written, and reading them all would make a small image cost as
		// much as a full one.
		if err := r.verifyFrames(context.Background(), r.pages.frames[:r.pages.own()], workers(w.opts.Workers),
			nil); err != nil {
			return fault.New(fault.StoreIO, w.ws.store, "what was written reads back differently: %w", err)
		}
		return nil
	})
	both.Go(func() error {
		if field := Difference(st, r.state); field != "" {
			return fault.New(fault.StoreIO, w.ws.store, "the state reads back differently: %s", field)
		}
		if w.opts.Accept != nil {
			return w.opts.Accept(r.state)
		}
		return nil
	})
	return both.Wait()
}

// Abort removes everything of the image, and the store if Create made it. It does nothing after Commit or a former
// Abort.
func (w *Writer) Abort() {
	if w.done {
		return
	}
	defer w.end()
	if w.enc != nil {
		_, _ = w.enc.close()
		w.enc = nil
	}
	if w.data != nil {
		_ = w.data.Close()
	}
	w.closeParent()
	w.ws.draft.Discard()
}

// end makes that the writer is not used any more.
func (w *Writer) end() {
	w.done = true
	if w.release != nil {
		w.release()
	}
}

// closeParent releases the parent's files.
func (w *Writer) closeParent() {
	if w.parent == nil {
		return
	}
	if w.parent.cache != nil {
		w.parent.cache.close()
	}
	_ = w.parent.Close()
	w.parent = nil
}
