package image_test

import (
	"context"
	"slices"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

// forkedState is a parent and its child, whose memory is space child.
func forkedState(child model.Space) *model.State {
	st := imagetest.State()
	p := st.Processes[0]
	st.Processes[0].Start = 5
	p.Pid, p.PPid, p.Start, p.Space = p.Pid+1000, p.Pid, 6, child
	p.VMAs, p.Timers = slices.Clone(p.VMAs), nil
	p.Threads = slices.Clone(p.Threads)
	for i := range p.Threads {
		p.Threads[i].Tid += 1000
	}
	st.Processes = append(st.Processes, p)
	return st
}

// putObjects writes what the state has beside the memory of processes.
func putObjects(t *testing.T, w *image.Writer) {
	t.Helper()
	for space, at := range map[model.Space]uint64{imagetest.Shmem: page, imagetest.Unlinked: 0} {
		if err := w.Write(space, at, pattern(uint64(space), 2)); err != nil {
			t.Fatal(err)
		}
	}
}

// Pages that two processes share are stored once, whatever comes first, and what is written for one of them later is
// its own.
func TestSame(t *testing.T) {
	const child = model.Space(40)
	dir := t.TempDir()
	heap := make([]byte, 256*page) // without zero pages
	for i := range 256 {
		heap[i*page+7], heap[i*page+8] = byte(i), 1
	}
	w, err := image.Create(dir, image.WriteOptions{Level: image.LevelNone})
	if err != nil {
		t.Fatal(err)
	}
	own := slices.Repeat([]byte{9}, page)
	at := uint64(imagetest.HeapAddr)
	for _, step := range []error{
		w.Same(child, at, 256, imagetest.Memory),
		w.Write(imagetest.Memory, at, heap),
		w.Write(child, at+100*page, own),
		w.Discard(child, at+50*page, 1),
		w.Zero(child, at+51*page, 1),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	putObjects(t, w)
	info, err := w.Commit(forkedState(child))
	if err != nil {
		t.Fatal(err)
	}
	if info.PagesWritten < 257 || info.PagesWritten > 257+4 { // with those of objects
		t.Errorf("%d pages were written", info.PagesWritten)
	}
	want := slices.Clone(heap)
	copy(want[100*page:], own)
	check := func(ref string) {
		t.Helper()
		r := open(t, ref)
		got, err := load(r, child, 2)
		if err != nil {
			t.Fatal(err)
		}
		expected := expect(at, want)
		delete(expected, at+50*page)
		expected[at+51*page] = "" // zero
		same(t, got, expected)
		shared := r.Same(imagetest.Memory, child)
		if want := []model.Range{
			{Start: at, End: at + 50*page},
			{Start: at + 52*page, End: at + 100*page},
			{Start: at + 101*page, End: at + 256*page},
		}; !slices.Equal(shared, want) {
			t.Errorf("the two share %x, want %x", shared, want)
		}
	}
	check(dir)

	// An image that keeps both, and one that has both itself.
	w, err = image.Create(dir, image.WriteOptions{Parent: info.ID})
	if err != nil {
		t.Fatal(err)
	}
	for _, space := range []model.Space{imagetest.Memory, child, imagetest.Shmem, imagetest.Unlinked} {
		if err := w.Keep(space, 0, 1<<30/page); err != nil {
			t.Fatal(err)
		}
	}
	next, err := w.Commit(forkedState(child))
	if err != nil {
		t.Fatal(err)
	}
	if next.PagesWritten != 0 {
		t.Errorf("%d pages were written again", next.PagesWritten)
	}
	check(dir)
	squashed, _, err := image.Squash(context.Background(), dir, image.SquashOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if squashed.PagesWritten != info.PagesWritten {
		t.Errorf("squashed it has %d pages, want %d", squashed.PagesWritten, info.PagesWritten)
	}
	check(dir)
}

// Spaces that are said to have each other's pages have none.
func TestSameInACircle(t *testing.T) {
	w, err := image.Create(t.TempDir(), image.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	at := uint64(imagetest.HeapAddr)
	wantCode(t, w.Same(40, at, 1, 40), fault.StoreRefused)
	if err := w.Same(40, at, 1, imagetest.Memory); err != nil {
		t.Fatal(err)
	}
	if err := w.Same(imagetest.Memory, at, 1, 40); err != nil {
		t.Fatal(err)
	}
	putObjects(t, w)
	_, err = w.Commit(forkedState(40))
	wantCode(t, err, fault.StoreRefused)
}

func TestRanges(t *testing.T) {
	r := func(list ...uint64) (out []model.Range) {
		for i := 0; i < len(list); i += 2 {
			out = append(out, model.Range{Start: list[i], End: list[i+1]})
		}
		return out
	}
	a, b := r(1, 4, 6, 9, 20, 30), r(0, 2, 3, 7, 8, 9, 22, 23, 25, 40)
	for _, c := range []struct {
		what      string
		got, want []model.Range
	}{
		{"intersect", model.Intersect(a, b), r(1, 2, 3, 4, 6, 7, 8, 9, 22, 23, 25, 30)},
		{"subtract", model.Subtract(a, b), r(2, 3, 7, 8, 20, 22, 23, 25)},
		{"union", model.Union(a, b), r(0, 9, 20, 40)},
		{"intersect nothing", model.Intersect(a, nil), nil},
		{"subtract nothing", model.Subtract(a, nil), a},
		{"union with nothing", model.Union(nil, a), a},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
}
