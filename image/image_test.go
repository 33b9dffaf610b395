package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

const page = model.PageSize

// pattern returns n pages that differ from each other: some compress, some do not, every fifth is zero.
func pattern(seed uint64, n int) []byte {
	b := make([]byte, n*page)
	rng := rand.New(rand.NewPCG(seed, seed))
	for i := range n {
		p := b[i*page : (i+1)*page]
		switch i % 5 {
		case 0, 1:
			for j := range p {
				p[j] = byte(rng.Uint32())
			}
		case 2, 3:
			copy(p, fmt.Sprintf("page %d of %d", i, seed))
		}
	}
	return b
}

// save writes an image of State with the given memory in the heap, and returns its Info.
func save(t testing.TB, dir string, o image.WriteOptions, heap []byte) image.Info {
	t.Helper()
	w, err := image.Create(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for _, err := range []error{
		w.Write(imagetest.Memory, imagetest.HeapAddr, heap),
		w.Write(imagetest.Shmem, page, pattern(7, 2)),
		w.Write(imagetest.Unlinked, 0, pattern(8, 2)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	info, err := w.Commit(imagetest.State())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// spaces are those of State.
var spaces = []model.Space{imagetest.Memory, imagetest.Shmem, imagetest.Unlinked}

// content is everything an image holds of a space, page by page; zero pages are empty.
type content map[uint64]string

// load reads a space with Runs and Load and checks that they agree.
func load(r *image.Reader, space model.Space, n int) (content, error) {
	out := content{}
	kinds := map[uint64]image.Kind{}
	for _, run := range r.Runs(space) {
		for i := range run.Pages {
			kinds[run.Addr+i*page] = run.Kind
			if run.Kind == image.Zero {
				out[run.Addr+i*page] = ""
			}
		}
	}
	var mu sync.Mutex
	err := r.Load(context.Background(), space, n, func(addr uint64, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		for i := 0; i < len(data); i += page {
			at := addr + uint64(i)
			if k, ok := kinds[at]; !ok || k != image.Data {
				return fmt.Errorf("Load delivers %#x, which Runs does not have", at)
			}
			if _, twice := out[at]; twice {
				return fmt.Errorf("Load delivers %#x twice", at)
			}
			out[at] = string(data[i : i+page])
		}
		return nil
	})
	if err == nil && len(out) != len(kinds) {
		err = fmt.Errorf("Load and the zero runs have %d pages, Runs %d", len(out), len(kinds))
	}
	return out, err
}

// expect is the content of data at addr.
func expect(addr uint64, data []byte) content {
	out := content{}
	for i := 0; i < len(data); i += page {
		p := data[i : i+page]
		if bytes.Equal(p, make([]byte, page)) {
			p = nil
		}
		out[addr+uint64(i)] = string(p)
	}
	return out
}

// same compares two contents without printing pages.
func same(t testing.TB, got, want content) {
	t.Helper()
	for a, p := range want {
		if g, ok := got[a]; !ok || g != p {
			t.Fatalf("page %#x: present %t, equal %t", a, ok, g == p)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d pages, want %d", len(got), len(want))
	}
}

func open(t testing.TB, ref string) *image.Reader {
	t.Helper()
	r, err := image.Open(ref)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// wantCode checks that err is a fault with the code.
func wantCode(t testing.TB, err error, code fault.Code) {
	t.Helper()
	if !errors.Is(err, &fault.Error{Code: code}) {
		t.Errorf("error %v, want %s", err, code)
	}
}

func TestRoundTrip(t *testing.T) {
	for _, level := range image.Levels() {
		for _, n := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s-%d", level, n), func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "a", "store")
				heap := pattern(1, 256)
				info := save(t, dir, image.WriteOptions{Level: level, Workers: n, Name: "first"}, heap)
				r := open(t, dir+"@first")
				if !reflect.DeepEqual(r.State(), imagetest.State()) {
					t.Error("the state comes back different")
				}
				if got := r.Info(); !reflect.DeepEqual(got, info) {
					t.Errorf("Open says %+v, Commit said %+v", got, info)
				}
				if info.PagesWritten != 205+2+2 || info.PagesZero != 51 || info.BytesRaw != 209*page {
					t.Errorf("counts: %+v", info)
				}
				got, err := load(r, imagetest.Memory, n)
				if err != nil {
					t.Fatal(err)
				}
				same(t, got, expect(imagetest.HeapAddr, heap))
				if got, err = load(r, imagetest.Shmem, n); err != nil {
					t.Fatal(err)
				}
				same(t, got, expect(page, pattern(7, 2)))
				var last, total int64
				if err := r.Verify(context.Background(), func(d, t int64) { last, total = d, t }); err != nil ||
					last != total || last == 0 {
					t.Errorf("Verify: %v, %d of %d", err, last, total)
				}
				checkTree(t, dir, info)
			})
		}
	}
}

// checkTree checks modes, sizes and that nothing but the image is in the store.
func checkTree(t *testing.T, dir string, info image.Info) {
	t.Helper()
	var sum int64
	want := "store head images images/ID images/ID/data images/ID/info images/ID/pages images/ID/state tmp"
	found := map[string]bool{}
	err := filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.ReplaceAll(strings.TrimPrefix(path, dir+"/"), info.ID, "ID")
		found[name] = true
		mode := os.FileMode(0o600)
		if fi.IsDir() {
			mode = 0o700
		} else if strings.HasPrefix(name, "images/") {
			sum += fi.Size()
		}
		if fi.Mode().Perm() != mode {
			t.Errorf("%s has mode %v", name, fi.Mode())
		}
		if !strings.Contains(" "+want+" ", " "+name+" ") {
			t.Errorf("%s is in the store", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != len(strings.Fields(want)) {
		t.Errorf("the store has %v", found)
	}
	if sum != info.BytesWritten {
		t.Errorf("the files have %d bytes, BytesWritten is %d", sum, info.BytesWritten)
	}
}

func TestEmptyMemory(t *testing.T) {
	dir := t.TempDir()
	w, err := image.Create(dir, image.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(imagetest.State()); err != nil {
		t.Fatal(err)
	}
	r := open(t, dir)
	for _, s := range spaces {
		if got, err := load(r, s, 0); err != nil || len(got) != 0 {
			t.Errorf("space %d: %d pages, %v", s, len(got), err)
		}
	}
	if err := r.Verify(context.Background(), nil); err != nil {
		t.Error(err)
	}
}

func TestLastWriteWins(t *testing.T) {
	dir := t.TempDir()
	w, err := image.Create(dir, image.WriteOptions{Level: image.LevelFast})
	if err != nil {
		t.Fatal(err)
	}
	heap := pattern(1, 256)
	model := expect(imagetest.HeapAddr, heap)
	if err := w.Write(imagetest.Memory, imagetest.HeapAddr, heap); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		at, n := rng.IntN(250), 1+rng.IntN(6)
		addr := uint64(imagetest.HeapAddr + at*page)
		switch i % 3 {
		case 0:
			b := pattern(uint64(100+i), n)
			err = w.Write(imagetest.Memory, addr, b)
			for a, p := range expect(addr, b) {
				model[a] = p
			}
		case 1:
			err = w.Zero(imagetest.Memory, addr, uint64(n))
			for j := range n {
				model[addr+uint64(j*page)] = ""
			}
		case 2:
			err = w.Discard(imagetest.Memory, addr, uint64(n))
			for j := range n {
				delete(model, addr+uint64(j*page))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Commit(imagetest.State()); err != nil {
		t.Fatal(err)
	}
	got, err := load(open(t, dir), imagetest.Memory, 2)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, model)
}

func TestLoadStops(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, image.WriteOptions{}, pattern(1, 256))
	r := open(t, dir)
	mine := errors.New("enough")
	err := r.Load(context.Background(), imagetest.Memory, 2, func(uint64, []byte) error { return mine })
	if !errors.Is(err, mine) {
		t.Errorf("Load returned %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Verify(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify returned %v", err)
	}
}

func TestBytesThatAreNoText(t *testing.T) {
	names := []string{
		"/tmp/\xff\xfe", "/\u00e9\xc3", "/\U0010ff80\U0010ffff\U0010f000", "/\ufffd", "/a<b>&\u2028\"\\",
		"/\xf4\x8f\xbe",
	}
	dir := t.TempDir()
	for _, name := range names {
		st := imagetest.State()
		st.Files[1].Path, st.Processes[0].Cwd = name, name
		st.Processes[0].Args = []string{name, "", name}
		w, err := image.Create(dir, image.WriteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(st); err != nil {
			t.Fatal(err)
		}
		if st.Files[1].Path != name {
			t.Errorf("Commit left %q as %q", name, st.Files[1].Path)
		}
		if got := open(t, dir).State(); !reflect.DeepEqual(got, st) {
			t.Errorf("%q comes back as %q", name, got.Files[1].Path)
		}
	}
}

// Lent memory is not copied, and given back once it is not needed any more, whatever happens.
func TestLend(t *testing.T) {
	for _, level := range []image.Level{image.LevelNone, image.LevelFast} {
		dir := t.TempDir()
		w, err := image.Create(dir, image.WriteOptions{Level: level, Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, 1))
		heap := make([]byte, heapPages*page)
		for i := range heap {
			heap[i] = byte(rng.Uint32())
		}
		clear(heap[7*page : 9*page])
		lent := slices.Clone(heap)
		var back sync.WaitGroup
		for at := 0; at < len(lent); at += 100 * page {
			part := lent[at:min(at+100*page, len(lent))]
			back.Add(1)
			if err := w.Lend(imagetest.Memory, imagetest.HeapAddr+uint64(at), part,
				func() { clear(part); back.Done() }); err != nil {
				t.Fatal(err)
			}
		}
		back.Wait()
		if _, err := w.Commit(imagetest.State()); err != nil {
			t.Fatal(err)
		}
		isContent(t, dir, expect(imagetest.HeapAddr, heap))
		given := 0
		if err := w.Lend(imagetest.Memory, imagetest.HeapAddr, heap, func() { given++ }); err == nil || given != 1 {
			t.Errorf("Lend after Commit: %v, given back %d times", err, given)
		}
	}
}
