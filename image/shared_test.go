package image_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

// A page map may name frames of other images of the store; incremental images are made of that.
func TestFramesOfAnotherImage(t *testing.T) {
	dir := t.TempDir()
	heap := pattern(1, 256)
	from := save(t, dir, image.WriteOptions{}, heap)
	w, err := image.Create(dir, image.WriteOptions{Parent: from.ID})
	if err != nil {
		t.Fatal(err)
	}
	for space, b := range map[model.Space][]byte{
		imagetest.Memory: heap, imagetest.Shmem: pattern(7, 2),
		imagetest.Unlinked: pattern(8, 2),
	} {
		at := map[model.Space]uint64{imagetest.Memory: imagetest.HeapAddr, imagetest.Shmem: page}[space]
		if err := w.Compare(space, at, b, space, at); err != nil {
			t.Fatal(err)
		}
	}
	to, err := w.Commit(imagetest.State())
	if err != nil || to.PagesWritten != 0 {
		t.Fatalf("%+v, %v", to, err)
	}

	r := open(t, dir)
	if r.Info().Parent != from.ID {
		t.Errorf("the parent is %q", r.Info().Parent)
	}
	got, err := load(r, imagetest.Memory, 2)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, expect(imagetest.HeapAddr, heap))
	if v, l := use(dir); v != nil || l != nil {
		t.Error(v, l)
	}

	other := filepath.Join(dir, "images", from.ID)
	data := filepath.Join(other, "data")
	edit(t, data, func(b []byte) []byte { b[5000] ^= 1; return b }, func() {
		v, l := use(dir)
		wantBadImage(t, "Verify", dir, v)
		wantBadImage(t, "Load", dir, l)
	})
	edit(t, data, func(b []byte) []byte {
		n := uint64(len(b) - 80 - page)
		return put(56, 8, n)(put(48, 8, n)(b[:len(b)-page]))
	}, func() {
		_, err := image.Open(dir)
		wantCode(t, err, fault.ImageTruncated)
	})
	// Only the data file of the other image is needed.
	for _, name := range []string{"info", "state", "pages"} {
		if err := os.Remove(filepath.Join(other, name)); err != nil {
			t.Fatal(err)
		}
	}
	if v, l := use(dir); v != nil || l != nil {
		t.Error(v, l)
	}
	if err := os.Remove(data); err != nil {
		t.Fatal(err)
	}
	_, err = image.Open(dir)
	wantCode(t, err, fault.ImageMissing)
}
