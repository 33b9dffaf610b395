package image_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

// started is State of a process whose start time is known: images of it can follow each other.
func started() *model.State {
	st := imagetest.State()
	st.Processes[0].Start = 4711
	return st
}

// heapPages is the size of the heap of State.
const heapPages = 256

// next is an incremental image of a heap of which the model holds the pages: those in dirty are written, the others
// kept.
func next(t testing.TB, dir string, o image.WriteOptions, st *model.State, expected content,
	dirty func(addr uint64) bool,
) image.Info {
	t.Helper()
	w, err := image.Create(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for i := range uint64(heapPages) {
		addr := imagetest.HeapAddr + i*page
		p, ok := expected[addr]
		switch {
		case o.Parent != "" && !dirty(addr):
			err = w.Keep(imagetest.Memory, addr, 1)
		case ok && p == "":
			err = w.Zero(imagetest.Memory, addr, 1)
		case ok:
			err = w.Write(imagetest.Memory, addr, []byte(p))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.Note(image.Notes{Freeze: 5e6, Tracking: "test"})
	info, err := w.Commit(st)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// isContent checks an image against a model of its heap.
func isContent(t testing.TB, ref string, expected content) {
	t.Helper()
	r := open(t, ref)
	defer func() { _ = r.Close() }()
	got, err := load(r, imagetest.Memory, 2)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, expected)
	if err := r.Verify(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// mutate changes some pages of a model and returns the addresses.
func mutate(rng *rand.Rand, expected content) map[uint64]bool {
	dirty := map[uint64]bool{}
	for range rng.IntN(40) {
		addr := imagetest.HeapAddr + rng.Uint64N(heapPages)*page
		for n := rng.IntN(6); n >= 0 && addr < imagetest.HeapAddr+heapPages*page; n, addr = n-1, addr+page {
			dirty[addr] = true
			switch rng.IntN(4) {
			case 0:
				delete(expected, addr)
			case 1:
				expected[addr] = ""
			default:
				expected[addr] = string(pattern(rng.Uint64(), 1))
			}
		}
	}
	return dirty
}

func TestKeep(t *testing.T) {
	dir := t.TempDir()
	heap := pattern(1, heapPages)
	expected := expect(imagetest.HeapAddr, heap)
	full := next(t, dir, image.WriteOptions{Level: image.LevelFast}, started(), expected, nil)
	dirty := map[uint64]bool{
		imagetest.HeapAddr: true, imagetest.HeapAddr + 7*page: true,
		imagetest.HeapAddr + 9*page: true,
	}
	expected[imagetest.HeapAddr] = string(pattern(9, 1))
	expected[imagetest.HeapAddr+7*page] = ""
	delete(expected, imagetest.HeapAddr+9*page)
	inc := next(t, dir, image.WriteOptions{Parent: full.ID, Level: image.LevelFast}, started(), expected,
		func(a uint64) bool { return dirty[a] })
	isContent(t, dir, expected)
	if inc.PagesWritten != 1 || inc.PagesShared != 203 || !slices.Equal(inc.Referenced, []string{full.ID}) ||
		inc.Freeze != 5e6 || inc.Tracking != "test" {
		t.Errorf("%+v", inc)
	}
	if inc.BytesWritten > full.BytesWritten/10 {
		t.Errorf("%d bytes, the full one has %d", inc.BytesWritten, full.BytesWritten)
	}
	if inc.Root.Pid != imagetest.Pid || inc.Root.Start != 4711 {
		t.Errorf("root %+v", inc.Root)
	}
}

// Memory that was moved, and that of a forked child, comes from elsewhere in the parent.
func TestKeepFrom(t *testing.T) {
	dir := t.TempDir()
	heap := pattern(1, heapPages)
	full := next(t, dir, image.WriteOptions{}, started(), expect(imagetest.HeapAddr, heap), nil)
	w, err := image.Create(dir, image.WriteOptions{Parent: full.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := errors.Join(
		w.KeepFrom(imagetest.Memory, imagetest.HeapAddr+100*page, 50, imagetest.Memory, imagetest.HeapAddr+3*page),
		w.Keep(imagetest.Memory, imagetest.HeapAddr+120*page, 2),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(started()); err != nil {
		t.Fatal(err)
	}
	want := expect(imagetest.HeapAddr+100*page, heap[3*page:53*page])
	maps.Copy(want, expect(imagetest.HeapAddr+120*page, heap[120*page:122*page]))
	isContent(t, dir, want)
}

// Only pages of the same process may be kept unseen; comparing works with any.
func TestForeignParent(t *testing.T) {
	heap := pattern(1, heapPages)
	for what, change := range map[string]func(st *model.State){
		"another boot":      func(st *model.State) { st.Kernel.BootID = "11111111-0000-0000-0000-000000000000" },
		"another process":   func(st *model.State) { st.Processes[0].Start++ },
		"unknown start":     func(st *model.State) { st.Processes[0].Start = 0 },
		"execve of another": func(st *model.State) { st.Processes[0].Exe.Ino++ },
		"execve of itself":  func(st *model.State) { st.Processes[0].MM.Auxv = append(make([]byte, 15), 1) },
		"execve, counted":   func(st *model.State) { st.Processes[0].Execs = 8 },
		"another memfd":     func(st *model.State) { st.Shmems[0].Ino++ },
		"a process for memfd": func(st *model.State) {
			st.Processes[0].Space, st.Shmems[0].Space = imagetest.Shmem,
				imagetest.Memory
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			st := started()
			st.Processes[0].Execs = 7
			full := next(t, dir, image.WriteOptions{}, st, expect(imagetest.HeapAddr, heap), nil)
			st = started()
			change(st)
			w, err := image.Create(dir, image.WriteOptions{Parent: full.ID})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			if err := errors.Join(w.Keep(imagetest.Memory, imagetest.HeapAddr, 1),
				w.Keep(imagetest.Shmem, 0, 1)); err != nil {
				t.Fatal(err)
			}
			_, err = w.Commit(st)
			wantCode(t, err, fault.StoreParent)
			if what == "a process for memfd" {
				return
			}
			if what != "another memfd" {
				before := started()
				before.Processes[0].Execs = 7
				wantCode(t, image.Follows(before, st), fault.StoreParent)
			}
			w, err = image.Create(dir, image.WriteOptions{Parent: full.ID})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			if err := w.Compare(imagetest.Memory, imagetest.HeapAddr, heap, imagetest.Memory,
				imagetest.HeapAddr); err != nil {
				t.Fatal(err)
			}
			info, err := w.Commit(st)
			if err != nil || info.PagesWritten != 0 {
				t.Fatalf("%+v, %v", info, err)
			}
			isContent(t, dir, expect(imagetest.HeapAddr, heap))
		})
	}
	w, err := image.Create(t.TempDir(), image.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	wantCode(t, w.Keep(imagetest.Memory, imagetest.HeapAddr, 1), fault.StoreParent)
	wantCode(t, w.Compare(imagetest.Memory, imagetest.HeapAddr, heap, 1, imagetest.HeapAddr), fault.StoreParent)
}

// A store in which images are taken, compared, branched, squashed, removed and pruned at random always has what a model
// says.
func TestTreeAgainstAModel(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { randomTree(t, rand.New(rand.NewPCG(seed, 3))) })
	}
}

func randomTree(t *testing.T, rng *rand.Rand) {
	dir := filepath.Join(tmpfs(t, ""), "st[o]re")
	models := map[string]content{} // by id
	levels := []image.Level{image.LevelNone, image.LevelFast}
	first := expect(imagetest.HeapAddr, pattern(rng.Uint64(), heapPages))
	models[next(t, dir, image.WriteOptions{Name: "first"}, started(), first, nil).ID] = first
	pick := func() string { return slices.Sorted(maps.Keys(models))[rng.IntN(len(models))] }
	for step := range 60 {
		switch rng.IntN(10) {
		default: // an image on top of any other
			on := pick()
			m := maps.Clone(models[on])
			dirty := mutate(rng, m)
			o := image.WriteOptions{Parent: on, Level: levels[rng.IntN(2)], Workers: 1}
			info := next(t, dir, o, started(), m, func(a uint64) bool { return dirty[a] })
			models[info.ID] = m
		case 6:
			id, m := compared(t, dir, pick(), rng, models)
			models[id] = m
		case 7:
			if len(models) < 2 {
				continue
			}
			id := pick()
			res, err := image.Remove(dir, id)
			if err != nil || !slices.Equal(res.Removed, []string{id}) || res.Kept != len(models)-1 {
				t.Fatalf("Remove: %+v, %v", res, err)
			}
			delete(models, id)
		case 8:
			id := pick()
			info, res, err := image.Squash(t.Context(), dir+"@"+id,
				image.SquashOptions{Chain: rng.IntN(3) == 0, Workers: 1})
			if err != nil || len(info.Referenced) != 0 {
				t.Fatalf("Squash: %+v, %v", info, err)
			}
			m := models[id]
			delete(models, id)
			models[info.ID] = m
			for _, id := range res.Removed {
				delete(models, id)
			}
		case 9:
			if rng.IntN(3) != 0 {
				continue
			}
			res, err := image.Prune(dir, image.PruneOptions{Keep: 3 + rng.IntN(4)})
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range res.Removed {
				delete(models, id)
			}
		}
		if step%20 == 9 {
			isStore(t, dir, models)
		}
	}
	isStore(t, dir, models)
	for len(models) > 0 {
		id := pick()
		if _, err := image.Remove(dir, id); err != nil {
			t.Fatal(err)
		}
		delete(models, id)
	}
	if got := tree(t, filepath.Join(dir, "images")); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
	if _, err := image.Head(dir); !errors.Is(err, &fault.Error{Code: fault.StoreNotFound}) {
		t.Errorf("the head of an empty store: %v", err)
	}
}

// compared is an image made by comparing with another one.
func compared(t *testing.T, dir, on string, rng *rand.Rand, models map[string]content) (string, content) {
	t.Helper()
	m := expect(imagetest.HeapAddr, heapOf(models[on]))
	mutate(rng, m)
	w, err := image.Create(dir, image.WriteOptions{Parent: on, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	heap := heapOf(m)
	if err := w.Compare(imagetest.Memory, imagetest.HeapAddr, heap, imagetest.Memory, imagetest.HeapAddr); err != nil {
		t.Fatal(err)
	}
	info, err := w.Commit(started())
	if err != nil {
		t.Fatal(err)
	}
	return info.ID, expect(imagetest.HeapAddr, heap)
}

// heapOf is the content of the heap as a process sees it.
func heapOf(m content) []byte {
	b := make([]byte, heapPages*page)
	for addr, p := range m {
		copy(b[addr-imagetest.HeapAddr:], p)
	}
	return b
}

// isStore checks a store against a model of its images.
func isStore(t *testing.T, dir string, models map[string]content) {
	t.Helper()
	nodes, err := image.Tree(dir)
	if err != nil || len(nodes) != len(models) {
		t.Fatalf("%d images instead of %d: %v", len(nodes), len(models), err)
	}
	heads := 0
	for _, n := range nodes {
		m, ok := models[n.ID]
		if !ok {
			t.Fatalf("there is an image %s", n.ID)
		}
		isContent(t, dir+"@"+n.ID, m)
		if n.Head {
			heads++
		}
		if n.Base != "" && models[n.Base] == nil {
			t.Errorf("%s stands on %s, which is gone", n.ID, n.Base)
		}
	}
	if heads != 1 {
		t.Errorf("%d heads", heads)
	}
	if got := tree(t, filepath.Join(dir, "tmp")); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

// A long row of images references a bounded number of them.
func TestManyReferenced(t *testing.T) {
	dir := t.TempDir()
	m := expect(imagetest.HeapAddr, pattern(1, heapPages))
	info := next(t, dir, image.WriteOptions{Workers: 1}, started(), m, nil)
	most := 0
	for i := range uint64(130) {
		addr := imagetest.HeapAddr + i*page
		m[addr] = string(pattern(i+5, 1))
		info = next(t, dir, image.WriteOptions{Parent: info.ID, Workers: 1}, started(), m,
			func(a uint64) bool { return a == addr })
		most = max(most, len(info.Referenced))
	}
	isContent(t, dir, m)
	if most > 96 || most < 60 {
		t.Errorf("%d referenced images at most", most)
	}
	res, err := image.Prune(dir, image.PruneOptions{Keep: 1})
	if err != nil || res.Kept != 1 || len(res.Referenced) != len(info.Referenced) || res.Freed <= 0 {
		t.Errorf("%+v, %v", res, err)
	}
	isContent(t, dir, m)
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	m := expect(imagetest.HeapAddr, pattern(1, heapPages))
	all := func(uint64) bool { return false }
	a := next(t, dir, image.WriteOptions{Name: "one"}, started(), m, nil)
	b := next(t, dir, image.WriteOptions{Name: "b", Parent: a.ID}, started(), m, all)
	c := next(t, dir, image.WriteOptions{Parent: b.ID}, started(), m, all)
	side := next(t, dir, image.WriteOptions{Parent: a.ID}, started(), m, all)

	if id, same, err := image.ParentOf(dir, image.Origin{Root: a.Root}); err != nil || !same || id != side.ID &&
		id != c.ID {
		t.Errorf("the next image continues %s, %v, %v", id, same, err)
	}
	if id, same, err := image.ParentOf(dir,
		image.Origin{Root: image.Root{Boot: "x", Pid: 1, Start: 1}, Restored: b.ID}); err != nil || same || id != b.ID {
		t.Errorf("the next image continues %s, %v, %v", id, same, err)
	}

	// An image that is being continued stays.
	w, err := image.Create(dir, image.WriteOptions{Parent: a.ID})
	if err != nil {
		t.Fatal(err)
	}
	_, err = image.Remove(dir, "one")
	wantCode(t, err, fault.StorePinned)
	res, err := image.Prune(dir, image.PruneOptions{Keep: 0, Names: true, Try: true})
	if err != nil || !slices.Equal(res.Removed, []string{b.ID, c.ID}) {
		t.Errorf("%+v, %v", res, err)
	}
	w.Abort()

	if res, err = image.Remove(dir, "one", side.ID[:9]); err != nil || res.Head != c.ID ||
		!slices.Contains(res.Referenced, a.ID) || len(res.Removed) != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	isContent(t, dir+"@b", m)
	_, err = image.Open(dir + "@one")
	wantCode(t, err, fault.StoreNoImage)
	_, err = image.Create(dir, image.WriteOptions{Parent: a.ID})
	wantCode(t, err, fault.StoreNoImage)
	if infos, err := image.List(dir); err != nil || len(infos) != 2 {
		t.Errorf("%d images, %v", len(infos), err)
	}
	// The head goes back to where it came from.
	if res, err = image.Remove(dir, c.ID); err != nil || res.Head != b.ID {
		t.Errorf("%+v, %v", res, err)
	}
	if id, _, err := image.ParentOf(dir, image.Origin{Restored: c.ID}); err != nil || id != "" {
		t.Errorf("%s, %v", id, err)
	}
	if id, _, err := image.ParentOf(filepath.Join(dir, "none"), image.Origin{Restored: c.ID}); err != nil || id != "" {
		t.Errorf("%s, %v", id, err)
	}
	_, err = image.Remove(dir, "nobody")
	wantCode(t, err, fault.StoreNoImage)
	_, err = image.Prune(dir, image.PruneOptions{Keep: -1})
	wantCode(t, err, fault.StoreOption)

	// What a damaged image references nobody knows; it can be removed, and then the rest goes too.
	bad := next(t, dir, image.WriteOptions{Parent: b.ID}, started(), m, all)
	edit(t, filepath.Join(dir, "images", bad.ID, "info"), func(b []byte) []byte { b[90] ^= 1; return b }, func() {
		res, err := image.Remove(dir, b.ID)
		if err != nil || res.Doubt == nil || !slices.Contains(res.Referenced, a.ID) {
			t.Errorf("%+v, %v", res, err)
		}
		if res, err = image.Remove(dir, bad.ID); err != nil || res.Doubt != nil || len(res.Referenced) != 0 || res.Kept != 0 {
			t.Errorf("%+v, %v", res, err)
		}
		if got := tree(t, filepath.Join(dir, "images")); len(got) != 1 {
			t.Errorf("left: %v", got)
		}
		// for edit to put the file back
		if err := os.MkdirAll(filepath.Join(dir, "images", bad.ID), 0o700); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSquash(t *testing.T) {
	dir := t.TempDir()
	m := expect(imagetest.HeapAddr, pattern(1, heapPages))
	kept := func(uint64) bool { return false }
	a := next(t, dir, image.WriteOptions{}, started(), m, nil)
	b := next(t, dir, image.WriteOptions{Parent: a.ID}, started(), m, kept)
	c := next(t, dir, image.WriteOptions{Name: "c", Parent: b.ID}, started(), m, kept)
	d := next(t, dir, image.WriteOptions{Parent: c.ID}, started(), m, kept)
	same, _, err := image.Squash(t.Context(), dir+"@"+a.ID, image.SquashOptions{})
	if err != nil || same.ID != a.ID {
		t.Errorf("%+v, %v", same, err)
	}
	s, res, err := image.Squash(t.Context(), dir+"@c", image.SquashOptions{Chain: true, Level: image.LevelFast})
	if err != nil || s.Name != "c" || s.Created != c.Created || s.Freeze != c.Freeze || s.Parent != b.ID ||
		len(s.Referenced) != 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	if len(res.Removed) != 2 || !slices.Equal(res.Referenced, []string{a.ID}) || res.Head != d.ID { // d still references a
		t.Errorf("%+v", res)
	}
	for _, ref := range []string{"@c", "@" + c.ID, "@" + s.ID, ""} {
		isContent(t, dir+ref, m)
	}
	nodes, err := image.Tree(dir)
	if err != nil || len(nodes) != 2 || nodes[0].ID != s.ID || nodes[0].Base != "" || nodes[1].Base != s.ID ||
		!nodes[1].Head {
		t.Errorf("%+v, %v", nodes, err)
	}
	// The earlier id will do for whoever goes on from there.
	f := next(t, dir, image.WriteOptions{Name: "f", Parent: c.ID}, started(), m, kept)
	if f.Parent != s.ID || !slices.Equal(f.Referenced, []string{s.ID}) {
		t.Errorf("%+v", f)
	}
	if _, err := image.Remove(dir, "f"); err != nil {
		t.Fatal(err)
	}
	if id, err := image.Head(dir); err != nil || id != s.ID {
		t.Errorf("the head is %s, %v", id, err)
	}
	// The head again, and once more: its earlier ids lead to it.
	e, _, err := image.Squash(t.Context(), dir+"@"+d.ID, image.SquashOptions{})
	if err != nil || e.ID == d.ID {
		t.Fatal(e.ID, err)
	}
	isContent(t, dir+"@"+d.ID, m)
	if got := strings.Join(tree(t, filepath.Join(dir, "images")), " "); strings.Contains(got, a.ID) ||
		strings.Contains(got, c.ID) {
		t.Errorf("left: %s", got)
	}
}
