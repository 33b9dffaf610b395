package image_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

// queued is n bytes of which some pages are zero.
func queued(n int) []byte { return pattern(uint64(n), n/page+1)[:n] }

// withPipes is a state with pipes that hold so many bytes.
func withPipes(sizes ...int) *model.State {
	st := imagetest.State()
	st.Pipes = nil
	for i, n := range sizes {
		st.Pipes = append(st.Pipes, model.Pipe{Ino: uint64(i + 1), Capacity: 1 << 25, Data: queued(n)})
	}
	return st
}

// What is queued in pipes comes back, wherever an image has it, also from images that continue it or take its place.
func TestPipeContents(t *testing.T) {
	const m = 1 << 20
	for _, c := range []struct {
		sizes  []int
		spaces []model.Space // 0: in the record
	}{
		{[]int{0, 1, page - 1, page, page + 1, 17*page + 5}, []model.Space{0, 0, 0, 4, 5, 6}},
		{[]int{m, 5, 10 * m, 6 * m, 4 * m, 4*m + 1}, []model.Space{4, 0, 5, 0, 6, 0}},
	} {
		st := withPipes(c.sizes...)
		dir := t.TempDir()
		info := next(t, dir, image.WriteOptions{}, st, expect(imagetest.HeapAddr, pattern(1, heapPages)), nil)
		check := func(what string) {
			r := open(t, dir)
			for i := range st.Pipes {
				p := r.State().Pipes[i]
				if !bytes.Equal(p.Data, st.Pipes[i].Data) || p.Space != c.spaces[i] ||
					p.Space != 0 && p.Size != len(p.Data) {
					t.Errorf("%s: pipe %d of %d bytes is %d bytes in space %d", what, i, c.sizes[i], len(p.Data), p.Space)
				}
			}
			isContent(t, dir, expect(imagetest.HeapAddr, pattern(1, heapPages)))
		}
		check("written")
		w, err := image.Create(dir, image.WriteOptions{Parent: info.ID})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		heap := pattern(1, heapPages)
		if err := w.Compare(imagetest.Memory, imagetest.HeapAddr, heap, imagetest.Memory,
			imagetest.HeapAddr); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(open(t, dir).State()); err != nil { // one whose contents have spaces
			t.Fatal(err)
		}
		check("continued")
		if _, err := image.Remove(dir, info.ID); err != nil {
			t.Fatal(err)
		}
		if _, _, err := image.Squash(t.Context(), dir, image.SquashOptions{}); err != nil {
			t.Fatal(err)
		}
		check("squashed")
	}
}

// Contents that no pipe can have are refused.
func TestHostileContents(t *testing.T) {
	dir := t.TempDir()
	w, err := image.Create(dir, image.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := w.Commit(withPipes(3*page+5, 7)); err != nil {
		t.Fatal(err)
	}
	infos, _ := image.List(dir)
	text := stateText(t, dir)
	for _, c := range [][2]string{
		{`"space":4,"size":12293`, `"space":4,"size":12292`}, // a byte of data behind its end
		{`"size":12293`, `"size":16385`},                     // more than there is
		{`"size":12293}`, `"size":17000000}`},                // more than the format allows
		{`"space":4,`, `"space":1,`},                         // that of a process
		{`"space":4,"size":12293`, `"size":12293`},           // none
		{`"size":12293`, `"size":1`},                         // so few have no space
		{`"data":null`, `"data":"AAAA"`},                     // both
		{`"space":4`, `"space":9`},                           // one without pages
		{`"size":12293}`, `"size":9223372036854775807}`},     // absurd
	} {
		from, to := c[0], c[1]
		b := changeRecord(t, text, "pipe", func(b []byte) []byte {
			if !bytes.Contains(b, []byte(from)) {
				t.Fatalf("%s is not in %s", from, b)
			}
			return bytes.Replace(b, []byte(from), []byte(to), 1)
		})
		wantBadImage(t, to, dir, with(t, dir, "state", pack(t, records, infos[0].ID, b, uint64(len(b)))))
	}
}

// A squash keeps the records that this release does not understand.
func TestSquashKeepsUnknownRecords(t *testing.T) {
	dir := t.TempDir()
	writeGolden(t, dir)
	infos, err := image.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	base := infos[0].ID
	if _, err := image.Remove(dir, "next"); err != nil {
		t.Fatal(err)
	}
	text := slices.Concat(later("hint", 3, 0), stateText(t, dir))
	place(t, dir, "state", pack(t, records, base, text, uint64(len(text))))
	// Only what references others is squashed: an image with this state that continues another one.
	continueGolden(t, dir, image.WriteOptions{Parent: base})
	child := open(t, dir).Info().ID
	if got := open(t, dir).Skipped(); len(got) != 0 {
		t.Errorf("the next image has %q of its parent", got)
	}
	placeIn(t, dir, child, "state", pack(t, records, child, text, uint64(len(text))))
	if _, _, err := image.Squash(t.Context(), dir, image.SquashOptions{}); err != nil {
		t.Fatal(err)
	}
	r := open(t, dir)
	if got := r.Skipped(); !slices.Equal(got, []string{"hint 3"}) || len(r.Info().Referenced) != 0 {
		t.Errorf("squashed: %q, referencing %q", got, r.Info().Referenced)
	}
	if err := r.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
}
