package image_test

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

// Images written by earlier builds. The first has a compressed frame, a raw one behind a gap, and zero pages; the other
// stores have an image like it, called base, and one that continues it, called next.
const (
	golden  = "testdata/golden" // format 1
	golden2 = "testdata/golden2"
	golden3 = "testdata/golden3"
)

var update = flag.Bool("update", false, "write records.txt and images that are missing in testdata")

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

// goldenState is the state of the images of later formats than 1.
func goldenState() *model.State {
	st := imagetest.State()
	p := &st.Processes[0]
	p.Start, p.Args = 4711, []string{"prog", "\xff\xfe"}
	st.Facts = []model.Fact{{Name: "kernel", Value: "6.18.0"}}
	st.Leaderless = []int{999}
	st.Pipes[0].Data = []byte(strings.Repeat("what is queued in a pipe\n", page)[:3*page+17])
	return st
}

// continueGolden takes an image on top of another one: one page of its heap is another.
func continueGolden(t *testing.T, dir string, o image.WriteOptions) {
	t.Helper()
	w, err := image.Create(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := errors.Join(
		w.Keep(imagetest.Memory, imagetest.HeapAddr, 256),
		w.Keep(imagetest.Memory, imagetest.StackAddr, 3),
		w.Write(imagetest.Memory, imagetest.HeapAddr+5*page, goldenStack()[:page]),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(goldenState()); err != nil {
		t.Fatal(err)
	}
}

func writeGolden(t *testing.T, dir string) {
	w, err := image.Create(dir, image.WriteOptions{Name: "base"})
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
	info, err := w.Commit(goldenState())
	if err != nil {
		t.Fatal(err)
	}
	continueGolden(t, dir, image.WriteOptions{Name: "next", Parent: info.ID})
}

// goldenContent is what an image has in memory, with the changed page or without.
func goldenContent(next bool) content {
	heap := goldenHeap()
	if next {
		copy(heap[5*page:], goldenStack()[:page])
	}
	want := expect(imagetest.HeapAddr, heap)
	for a, p := range expect(imagetest.StackAddr, goldenStack()) {
		want[a] = p
	}
	return want
}

// isGolden checks an image.
func isGolden(t *testing.T, ref string, st *model.State, want content) {
	t.Helper()
	r := open(t, ref)
	if err := r.Verify(t.Context(), nil); err != nil {
		t.Errorf("%s: %v", ref, err)
	}
	got := r.State()
	for i := range got.Pipes { // chosen by whoever wrote the image
		got.Pipes[i].Space, got.Pipes[i].Size = 0, 0
	}
	if d := image.Difference(got, st); d != "" {
		t.Errorf("%s: the state is another: %s", ref, d)
	}
	m, err := load(r, imagetest.Memory, 2)
	if err != nil {
		t.Fatal(err)
	}
	same(t, m, want)
}

// What was written once must stay readable: if this fails because State has a new field, the field needs omitempty or
// omitzero (docs/format.md, "Changing it").
func TestGolden(t *testing.T) {
	if _, err := os.Stat(golden3); *update && errors.Is(err, fs.ErrNotExist) {
		writeGolden(t, golden3)
	}
	isGolden(t, golden+"@golden", imagetest.State(), goldenContent(false))
	for _, dir := range []string{golden2, golden3} {
		isGolden(t, dir+"@base", goldenState(), goldenContent(false))
		isGolden(t, dir+"@next", goldenState(), goldenContent(true))
	}
}

// An image of this build continues one of an earlier format, and outlives it.
func TestGoldenContinued(t *testing.T) {
	for _, old := range []string{golden2, golden3} {
		for _, parent := range []string{"base", "next"} {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(old)); err != nil {
				t.Fatal(err)
			}
			continueGolden(t, dir, image.WriteOptions{Name: "mine", Parent: open(t, dir+"@"+parent).Info().ID})
			isGolden(t, dir+"@mine", goldenState(), goldenContent(true))
			if len(open(t, dir+"@mine").Info().Referenced) == 0 {
				t.Errorf("%s@%s: nothing is referenced", old, parent)
			}
			if _, err := image.Remove(dir, "base", "next"); err != nil {
				t.Fatal(err)
			}
			isGolden(t, dir+"@mine", goldenState(), goldenContent(true))
			if _, _, err := image.Squash(t.Context(), dir, image.SquashOptions{}); err != nil {
				t.Fatal(err)
			}
			isGolden(t, dir+"@mine", goldenState(), goldenContent(true))
		}
	}
}

// An image of format 1 does not tell when its process began: its pages are compared.
func TestGoldenCompared(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(golden)); err != nil {
		t.Fatal(err)
	}
	w, err := image.Create(dir, image.WriteOptions{Parent: open(t, dir).Info().ID})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := w.Compare(imagetest.Memory, imagetest.HeapAddr, goldenHeap(), imagetest.Memory,
		imagetest.HeapAddr); err != nil {
		t.Fatal(err)
	}
	info, err := w.Commit(goldenState())
	if err != nil {
		t.Fatal(err)
	}
	if info.PagesShared != 256 {
		t.Errorf("%d pages are shared with the image of format 1", info.PagesShared)
	}
	isGolden(t, dir, goldenState(), expect(imagetest.HeapAddr, goldenHeap()))
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
