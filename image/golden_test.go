package image_test

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
)

var update = flag.Bool("update", false, "write testdata/golden again")

// golden is an image written by an earlier build: a compressed frame, a raw one behind a gap, and zero pages.
const golden = "testdata/golden"

// goldenHeap and goldenStack are what the golden image has in memory.
func goldenHeap() []byte { return []byte(strings.Repeat("bpfckpt!", 1<<20/8)) }

func goldenStack() []byte {
	b := make([]byte, 3*page)
	x := uint32(1)
	for i := range page {
		x = x*1664525 + 1013904223 // Knuth's: the same in every release of Go, unlike math/rand's
		b[i] = byte(x >> 24)
	}
	return b
}

func writeGolden(t *testing.T) {
	if err := os.RemoveAll(golden); err != nil {
		t.Fatal(err)
	}
	w, err := image.Create(golden, image.WriteOptions{Name: "golden"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := errors.Join(
		w.Write(imagetest.Memory, imagetest.HeapAddr, goldenHeap()),
		w.Write(imagetest.Memory, imagetest.StackAddr, goldenStack()),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(imagetest.State()); err != nil {
		t.Fatal(err)
	}
}

// What was written once must stay readable: if this fails because State has a new field, the field needs omitempty or
// omitzero (docs/format.md, "Changing it").
func TestGolden(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	r := open(t, golden+"@golden")
	if err := r.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if !reflect.DeepEqual(r.State(), imagetest.State()) {
		t.Error("the state is another")
	}
	got, err := load(r, imagetest.Memory, 2)
	if err != nil {
		t.Fatal(err)
	}
	want := expect(imagetest.HeapAddr, goldenHeap())
	for a, p := range expect(imagetest.StackAddr, goldenStack()) {
		want[a] = p
	}
	same(t, got, want)
}

// The reader needs neither Linux nor root nor BPF: it builds for systems that have none of them.
func TestBuildsElsewhere(t *testing.T) {
	t.Parallel()
	if os.Getenv("BPFCKPT_GUEST") != "" {
		t.Skip("the guests of the kernel matrix have no Go")
	}
	for _, goos := range []string{"darwin", "windows"} {
		cmd := exec.Command("go", "build", "-o", os.DevNull, ".")
		cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("GOOS=%s: %v\n%s", goos, err, out)
		}
	}
}

// An image shows the moment of its freeze; one of an earlier version tells when it was begun.
func TestTaken(t *testing.T) {
	st := imagetest.State()
	dir := t.TempDir()
	w, err := image.Create(dir, image.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	st.Kernel.Realtime = 1_700_000_000_000_000_000
	info, err := w.Commit(st)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Taken().UnixNano(); got != st.Kernel.Realtime {
		t.Errorf("taken at %d, want %d", got, st.Kernel.Realtime)
	}
	old := open(t, golden+"@golden").Info()
	if got := old.Taken().UnixNano(); old.Moment != 0 || got != old.Created {
		t.Errorf("the golden image was taken at %d, and created at %d", got, old.Created)
	}
}
