package image_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
)

// storeFiles returns the paths of all files of a store.
func storeFiles(t testing.TB, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) != 6 {
		t.Fatalf("files %v, %v", files, err)
	}
	return files
}

// use opens the head of a store and reads everything, once with Verify and once with Load.
func use(dir string) (verify, loaded error) {
	r, err := image.Open(dir)
	if err != nil {
		return err, err
	}
	defer func() { _ = r.Close() }()
	verify = r.Verify(context.Background(), nil)
	for _, s := range spaces {
		loaded = errors.Join(loaded, r.Load(context.Background(), s, 1, func(uint64, []byte) error { return nil }))
	}
	return verify, loaded
}

// wantBadImage checks that err is a fault of the class BadImage that names something in the store.
func wantBadImage(t testing.TB, what, dir string, err error) {
	t.Helper()
	var f *fault.Error
	switch {
	case err == nil:
		t.Errorf("%s: nobody noticed", what)
	case !errors.As(err, &f):
		t.Errorf("%s: %v is no fault", what, err)
	case f.Class() != fault.BadImage || !strings.Contains(f.Object, dir) || f.Cause == "" || f.Advice() == "":
		t.Errorf("%s: class %d, %v", what, f.Class(), f)
	}
}

// replace puts b in the place of a file while do runs.
func replace(t testing.TB, path string, b []byte, do func()) {
	t.Helper()
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	do()
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
}

// edit calls do with the file changed by f.
func edit(t testing.TB, path string, f func([]byte) []byte, do func()) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, path, f(b), do)
}

// small is an image of a few kilobytes.
func small(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	w, err := image.Create(dir, image.WriteOptions{Name: "small"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	text := pattern(1, 5)[2*page:] // compresses well
	if err := errors.Join(
		w.Write(imagetest.Memory, imagetest.HeapAddr, text),
		w.Write(imagetest.Shmem, page, text[:page]),
		w.Write(imagetest.Unlinked, 0, text[page:]),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(imagetest.State()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// gapped is an image with a compressed frame, a gap, and a raw frame.
func gapped(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	w, err := image.Create(dir, image.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	b := []byte(strings.Repeat("a", 1<<20))
	noise := make([]byte, page)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(noise)
	st := imagetest.State()
	if err := errors.Join(w.Write(imagetest.Memory, imagetest.HeapAddr, b),
		w.Write(imagetest.Memory, imagetest.StackAddr, noise)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(st); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestEveryByteFlipped(t *testing.T) {
	t.Parallel()
	dir := small(t)
	if v, l := use(dir); v != nil || l != nil {
		t.Fatal(v, l)
	}
	for _, path := range storeFiles(t, dir) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b {
			if _, err := f.WriteAt([]byte{b[i] ^ 1<<(i%8)}, int64(i)); err != nil {
				t.Fatal(err)
			}
			v, l := use(dir)
			what := fmt.Sprintf("%s, bit %d of byte %d", filepath.Base(path), i%8, i)
			wantBadImage(t, what+", Verify", dir, v)
			wantBadImage(t, what+", Load", dir, l)
			if _, err := f.WriteAt(b[i:i+1], int64(i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if v, l := use(dir); v != nil || l != nil {
		t.Fatal(v, l)
	}
}

func TestGapFlipped(t *testing.T) {
	t.Parallel()
	dir := gapped(t)
	if v, l := use(dir); v != nil || l != nil {
		t.Fatal(v, l)
	}
	data := storeFiles(t, dir)[1]
	fi, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Size() != 3*page {
		t.Fatalf("the data file has %d bytes: no gap to test", fi.Size())
	}
	for i := page; i < 3*page; i += 61 {
		edit(t, data, func(b []byte) []byte { b[i] ^= 4; return b }, func() {
			v, l := use(dir)
			wantBadImage(t, fmt.Sprint("Verify, byte ", i), dir, v)
			wantBadImage(t, fmt.Sprint("Load, byte ", i), dir, l)
		})
	}
}

func TestEveryLength(t *testing.T) {
	t.Parallel()
	dir := small(t)
	for _, path := range storeFiles(t, dir) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		try := func(n int) {
			v, l := use(dir)
			what := fmt.Sprintf("%s with %d of %d bytes", filepath.Base(path), n, len(b))
			wantBadImage(t, what+", Verify", dir, v)
			wantBadImage(t, what+", Load", dir, l)
		}
		replace(t, path, append(b[:len(b):len(b)], 'x'), func() { try(len(b) + 1) })
		replace(t, path, b, func() {
			for n := len(b) - 1; n >= 0; n-- {
				if err := os.Truncate(path, int64(n)); err != nil {
					t.Fatal(err)
				}
				try(n)
			}
			if err := os.WriteFile(path, b, 0o600); err != nil { // replace puts back what it finds
				t.Fatal(err)
			}
		})
	}
}

func TestDamagedAfterOpen(t *testing.T) {
	dir := small(t)
	r := open(t, dir)
	for _, path := range storeFiles(t, dir) {
		if strings.HasPrefix(path, filepath.Join(dir, "images")) {
			edit(t, path, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, func() {
				wantBadImage(t, path, dir, r.Verify(context.Background(), nil))
			})
		}
	}
}

func TestFileMissing(t *testing.T) {
	dir := small(t)
	for _, path := range storeFiles(t, dir) {
		if filepath.Base(path) == "head" {
			continue // a store with one image does without
		}
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		_, err := image.Open(dir)
		wantBadImage(t, path, dir, err)
		wantCode(t, err, fault.ImageMissing)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		_, err = image.Open(dir)
		wantBadImage(t, path, dir, err)
		if err := errors.Join(os.Remove(path), os.Rename(path+".away", path)); err != nil {
			t.Fatal(err)
		}
	}
}

// reseal makes the checksums of a file right again after a change to its header or content.
func reseal(b []byte) []byte {
	le := binary.LittleEndian
	if string(b[8:12]) != "DATA" {
		le.PutUint64(b[64:], xxhash.Sum64(b[80:]))
	}
	le.PutUint64(b[72:], xxhash.Sum64(b[:72]))
	return b
}

// put returns an edit that stores v at an offset, 4 or 8 bytes wide, and makes the checksums right.
func put(off, width int, v uint64) func([]byte) []byte {
	return func(b []byte) []byte {
		if width == 4 {
			binary.LittleEndian.PutUint32(b[off:], uint32(v))
		} else {
			binary.LittleEndian.PutUint64(b[off:], v)
		}
		return reseal(b)
	}
}

func TestHostileHeaders(t *testing.T) {
	dir := small(t)
	files := map[string]string{}
	for _, path := range storeFiles(t, dir) {
		files[filepath.Base(path)] = path
	}
	for _, name := range []string{"info", "state", "pages", "data"} {
		for _, c := range []struct {
			what string
			edit func([]byte) []byte
			code fault.Code
		}{
			{"next version", put(12, 4, 4), fault.ImageVersion},
			{"version 0", put(12, 4, 0), fault.ImageVersion},
			{"must-understand bit 0", put(16, 8, 1), fault.ImageFeature},
			{"must-understand bit 63", put(16, 8, 1<<63), fault.ImageFeature},
			{"unknown codec", put(24, 4, 7), fault.ImageDamaged},
			{"reserved", put(28, 4, 1), fault.ImageDamaged},
			{"kind", put(8, 4, 0x41414141), fault.ImageDamaged},
			{"id", put(32, 4, 0x31313131), fault.ImageDamaged},
			{"id padding", put(44, 4, 1), fault.ImageDamaged},
			{"length", put(48, 8, 1<<62), fault.ImageSize},
			{"raw length", put(56, 8, 1<<62), ""},
			{
				"both lengths", func(b []byte) []byte { return put(56, 8, 1<<62)(put(48, 8, 1<<62)(b)) },
				fault.ImageTruncated,
			},
			{"zstd of raw bytes", put(24, 4, 1), ""},
		} {
			edit(t, files[name], c.edit, func() {
				if name == "state" && (c.what == "zstd of raw bytes" || c.what == "length") {
					return // the state is compressed: no change, another check
				}
				before := allocated()
				_, err := image.Open(dir)
				if n := allocated() - before; n > 1<<20 {
					t.Errorf("%s, %s: %d bytes allocated", name, c.what, n)
				}
				wantBadImage(t, name+", "+c.what, dir, err)
				if c.code != "" {
					wantCode(t, err, c.code)
				}
			})
		}
	}
}

// allocated is how many bytes were ever allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestForeignFiles(t *testing.T) {
	// The files of one image put in another's directory are noticed although each is sound.
	a, b := small(t), small(t)
	fa, fb := storeFiles(t, a), storeFiles(t, b)
	for i, path := range fa {
		if strings.HasPrefix(path, filepath.Join(a, "images")) {
			other, err := os.ReadFile(fb[i])
			if err != nil {
				t.Fatal(err)
			}
			replace(t, path, other, func() {
				_, err := image.Open(a)
				wantBadImage(t, path, a, err)
			})
		}
	}
}
