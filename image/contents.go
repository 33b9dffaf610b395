package image

import (
	"context"
	"slices"

	"github.com/bpfckpt/bpfckpt/model"
)

// What is queued in an object, up to a megabyte for each pipe, lies in the page map like memory and not in the object's
// record. Whoever fills a state or reads one sees the bytes only.

// content is the bytes that a record may have as a space.
type content struct {
	space *model.Space
	size  *int
	data  *[]byte
}

// contents lists what of a state may be a space, in the order of the records.
func contents(st *model.State) []content {
	var out []content
	for i := range st.Pipes {
		p := &st.Pipes[i]
		out = append(out, content{&p.Space, &p.Size, &p.Data})
	}
	return out
}

// storeContents writes long contents as spaces, numbered after those that the state has, and returns the state as it is
// stored.
func (w *Writer) storeContents(st *model.State) (*model.State, error) {
	stored := *st
	stored.Pipes = slices.Clone(st.Pipes)
	next, total := highestSpace(st), 0
	for _, c := range contents(&stored) {
		*c.space, *c.size = 0, 0
		n := len(*c.data)
		if n < model.LeastContent || total+n > model.MaxContents {
			continue
		}
		if total == 0 && w.buf != nil {
			w.submit() // Open reads contents: what is memory is not to be decoded for that
		}
		next++
		total += n
		*c.space, *c.size = next, n
		pages := make([]byte, alignUp(uint64(n)))
		copy(pages, *c.data)
		if err := w.Write(next, 0, pages); err != nil {
			return nil, err
		}
	}
	return &stored, nil
}

// highestSpace is the highest number of a space that is not a content.
func highestSpace(st *model.State) model.Space {
	top := model.Space(0)
	for i := range st.Processes {
		top = max(top, st.Processes[i].Space)
	}
	for i := range st.Shmems {
		top = max(top, st.Shmems[i].Space)
	}
	for _, unlinked := range [][]model.UnlinkedFile{st.Unlinked, st.Named} {
		for i := range unlinked {
			top = max(top, unlinked[i].Space)
		}
	}
	return top
}

// readContents fills in what the records have as spaces.
func (r *Reader) readContents() error {
	for _, c := range contents(r.state) {
		if *c.space == 0 {
			continue
		}
		b := make([]byte, alignUp(uint64(*c.size))) // Validate has bounded their sum
		have := uint64(0)
		for _, run := range r.Runs(*c.space) {
			have += run.Pages * model.PageSize
		}
		if have != uint64(len(b)) {
			return r.mapFault("space %d has %d bytes of a content of %d", *c.space, have,
				*c.size)
		}
		err := r.Load(context.Background(), *c.space, 1, func(addr uint64, data []byte) error {
			copy(b[addr:], data)
			return nil
		})
		if err != nil {
			return err
		}
		if !isZero(b[*c.size:]) {
			return r.mapFault("the content in space %d goes on behind its end", *c.space)
		}
		*c.data = b[:*c.size:*c.size]
	}
	return nil
}
