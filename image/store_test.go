package image_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

// tree lists everything below dir.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		names = append(names, strings.TrimPrefix(path, dir))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestAbortLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		what  string
		under string // below a directory that is there before
	}{{"in a new directory", "a/b/store"}, {"in an empty directory", ""}} {
		t.Run(c.what, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, c.under)
			w, err := image.Create(dir, image.WriteOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Write(imagetest.Memory, imagetest.HeapAddr, pattern(1, 256)); err != nil {
				t.Fatal(err)
			}
			w.Abort()
			w.Abort()
			if got := tree(t, parent); len(got) != 1 {
				t.Errorf("left: %v", got)
			}
			if err := w.Write(imagetest.Memory, 0, nil); err == nil {
				t.Error("Write after Abort works")
			}
			if _, err := w.Commit(imagetest.State()); err == nil {
				t.Error("Commit after Abort works")
			}
		})
	}
}

func TestAbortKeepsTheStore(t *testing.T) {
	dir := t.TempDir()
	info := save(t, dir, image.WriteOptions{}, pattern(1, 3))
	before := tree(t, dir)
	w, err := image.Create(dir, image.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Abort()
	if got := tree(t, dir); !slices.Equal(got, before) {
		t.Errorf("the store has %v, had %v", got, before)
	}
	if id, err := image.Head(dir); err != nil || id != info.ID {
		t.Errorf("head %q, %v", id, err)
	}
}

// One writer makes the store, another uses it meanwhile: whoever aborts leaves the other's alone.
func TestAbortWithAnotherWriter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	first, err := image.Create(dir, image.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := image.Create(dir, image.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first.Abort()
	if _, err := second.Commit(imagetest.State()); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestWritersAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			w, err := image.Create(dir, image.WriteOptions{Workers: 1})
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Abort()
			if err := w.Write(imagetest.Memory, imagetest.HeapAddr, pattern(uint64(i), 20)); err != nil {
				t.Error(err)
			}
			if i%4 == 3 {
				return
			}
			if _, err := w.Commit(imagetest.State()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	infos, err := image.List(dir)
	if err != nil || len(infos) != 6 {
		t.Fatalf("%d images, %v", len(infos), err)
	}
	for _, i := range infos {
		if err := open(t, dir+"@"+i.ID).Verify(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	if got := tree(t, filepath.Join(dir, "tmp")); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

func TestReferences(t *testing.T) {
	dir := t.TempDir()
	a := save(t, dir, image.WriteOptions{Name: "a"}, pattern(1, 3))
	b := save(t, dir, image.WriteOptions{Name: "b.1_x-y", Parent: a.ID}, pattern(2, 3))
	c := save(t, dir, image.WriteOptions{Parent: b.ID}, pattern(3, 3))
	for ref, id := range map[string]string{
		dir: c.ID, dir + "/": c.ID, dir + "@a": a.ID, dir + "@b.1_x-y": b.ID, dir + "@" + a.ID: a.ID,
		dir + "@" + c.ID[:11]: c.ID,
	} {
		if got := open(t, ref).Info(); got.ID != id {
			t.Errorf("%s leads to %s, not %s", ref, got.ID, id)
		}
	}
	infos, err := image.List(dir)
	if err != nil || len(infos) != 3 || !reflect.DeepEqual(infos, []image.Info{a, b, c}) {
		t.Errorf("List: %+v, %v", infos, err)
	}
	for ref, code := range map[string]fault.Code{
		dir + "@nobody": fault.StoreNoImage, dir + "@": fault.StoreNotFound, dir + "x": fault.StoreNotFound,
		"@a": fault.StoreNotFound,
		"":   fault.StoreNotFound, dir + "@../x": fault.StoreNoImage, t.TempDir(): fault.StoreNotFound,
		t.TempDir() + "@a": fault.StoreNotFound,
	} {
		_, err := image.Open(ref)
		wantCode(t, err, code)
	}
	for _, o := range []struct {
		opts image.WriteOptions
		code fault.Code
	}{
		{image.WriteOptions{Name: "a"}, fault.StoreName},
		{image.WriteOptions{Name: "../a"}, fault.StoreOption},
		{image.WriteOptions{Name: "-a"}, fault.StoreOption},
		{image.WriteOptions{Name: "0123456789ab"}, fault.StoreOption},
		{image.WriteOptions{Name: strings.Repeat("a", 65)}, fault.StoreOption},
		{image.WriteOptions{Level: "most"}, fault.StoreOption},
		{image.WriteOptions{Parent: "0123456789ab"}, fault.StoreNoImage},
		{image.WriteOptions{Parent: "../" + a.ID}, fault.StoreNoImage},
	} {
		_, err := image.Create(dir, o.opts)
		wantCode(t, err, o.code)
	}
	if got := tree(t, filepath.Join(dir, "tmp")); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

func TestDirectoryWithAnAt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "me@home")
	info := save(t, dir, image.WriteOptions{Name: "x"}, pattern(1, 3))
	for _, ref := range []string{dir, dir + "@x"} {
		if got := open(t, ref).Info().ID; got != info.ID {
			t.Errorf("%s leads to %s", ref, got)
		}
	}
}

func TestNameTakenMeanwhile(t *testing.T) {
	dir := t.TempDir()
	w, err := image.Create(dir, image.WriteOptions{Name: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	first := save(t, dir, image.WriteOptions{Name: "mine"}, pattern(1, 3))
	_, err = w.Commit(imagetest.State())
	wantCode(t, err, fault.StoreName)
	if got := tree(t, filepath.Join(dir, "images")); len(got) != 6 {
		t.Errorf("left: %v", got)
	}
	if id, err := image.Head(dir); err != nil || id != first.ID {
		t.Errorf("head %s, %v", id, err)
	}
}

func TestDamagedNeighbour(t *testing.T) {
	// An image that cannot be read must not keep the others of the store from being used by name, but a name that is
	// not found may have been its.
	dir := t.TempDir()
	bad := save(t, dir, image.WriteOptions{Name: "bad"}, pattern(1, 3))
	good := save(t, dir, image.WriteOptions{Name: "good"}, pattern(1, 3))
	path := filepath.Join(dir, "images", bad.ID, "info")
	edit(t, path, func(b []byte) []byte { b[100] ^= 1; return b }, func() {
		if got := open(t, dir+"@good").Info().ID; got != good.ID {
			t.Errorf("@good leads to %s", got)
		}
		_, err := image.Open(dir + "@bad")
		wantCode(t, err, fault.ImageDamaged)
		infos, err := image.List(dir)
		if len(infos) != 1 {
			t.Errorf("List: %v", infos)
		}
		wantCode(t, err, fault.ImageDamaged)
	})
}

func TestStoreWithoutHead(t *testing.T) {
	dir := t.TempDir()
	info := save(t, dir, image.WriteOptions{}, pattern(1, 3))
	head := filepath.Join(dir, "head")
	if err := os.Remove(head); err != nil {
		t.Fatal(err)
	}
	if got := open(t, dir).Info().ID; got != info.ID {
		t.Errorf("the only image is %s, not %s", info.ID, got)
	}
	save(t, dir, image.WriteOptions{}, pattern(1, 3))
	if err := os.Remove(head); err != nil {
		t.Fatal(err)
	}
	_, err := image.Open(dir)
	wantCode(t, err, fault.StoreAmbiguous)
}

func TestNotAStore(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := image.Create(dir, image.WriteOptions{})
	wantCode(t, err, fault.StoreNotStore)
	for _, file := range []string{filepath.Join(dir, "thesis.tex"), filepath.Join(dir, "thesis.tex", "x")} {
		_, err = image.Create(file, image.WriteOptions{})
		wantCode(t, err, fault.StoreNotStore)
		_, _, err = image.ParentOf(file, image.Origin{}) // what a snapshot asks first
		wantCode(t, err, fault.StoreNotStore)
	}
	if got := tree(t, dir); len(got) != 2 {
		t.Errorf("left: %v", got)
	}
}

func TestRefused(t *testing.T) {
	for what, do := range map[string]func(*image.Writer, *model.State) error{
		"no space":       func(w *image.Writer, _ *model.State) error { return w.Write(0, 0, make([]byte, page)) },
		"half a page":    func(w *image.Writer, _ *model.State) error { return w.Write(1, 0, make([]byte, 5)) },
		"not aligned":    func(w *image.Writer, _ *model.State) error { return w.Write(1, 5, make([]byte, page)) },
		"beyond the end": func(w *image.Writer, _ *model.State) error { return w.Zero(1, 1<<56-page, 2) },
		"too many pages": func(w *image.Writer, _ *model.State) error { return w.Zero(1, 0, 1<<63) },
		"not mapped":     func(w *image.Writer, _ *model.State) error { return w.Zero(imagetest.Memory, 0x2000000, 1) },
		"partly mapped": func(w *image.Writer, _ *model.State) error {
			return w.Zero(imagetest.Memory, imagetest.HeapAddr+0xff000, 2)
		},
		"unknown space":       func(w *image.Writer, _ *model.State) error { return w.Zero(9, 0, 1) },
		"beyond the shmem":    func(w *image.Writer, _ *model.State) error { return w.Zero(imagetest.Shmem, 0, 5) },
		"a state of no sense": func(_ *image.Writer, st *model.State) error { st.Root = 7; return nil },
		"a thread without one": func(_ *image.Writer,
			st *model.State,
		) error {
			st.Processes[0].Threads = nil
			return nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			w, err := image.Create(dir, image.WriteOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			st := imagetest.State()
			err = do(w, st)
			if err == nil {
				_, err = w.Commit(st)
			}
			w.Abort()
			wantCode(t, err, fault.StoreRefused)
			var f *fault.Error
			if !errors.As(err, &f) || f.Class() != fault.Failed {
				t.Errorf("%v is of another class", err)
			}
			if got := tree(t, dir); len(got) != 1 {
				t.Errorf("left: %v", got)
			}
		})
	}
}
