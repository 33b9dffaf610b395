package snapshot

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
)

func TestCutterCutsAtMappings(t *testing.T) {
	vmas := []model.VMA{{Start: 0x1000, End: 0x4000}, {Start: 0x4000, End: 0x6000}, {Start: 0x9000, End: 0xa000}}
	type cut struct {
		vma        int
		start, end uint64
	}
	var got []cut
	c := cutter{vmas: vmas, sink: func(v *model.VMA, start, end uint64, _ bool) {
		got = append(got, cut{slices.IndexFunc(vmas, func(w model.VMA) bool { return w.Start == v.Start }), start, end})
	}}
	c.cut(0x0, 0x1000, false)    // before all
	c.cut(0x2000, 0x5000, false) // two mappings
	c.cut(0x5000, 0x9000, false) // into a hole
	c.cut(0x9000, 0xf000, false) // beyond the end
	want := []cut{{0, 0x2000, 0x4000}, {1, 0x4000, 0x5000}, {1, 0x5000, 0x6000}, {2, 0x9000, 0xa000}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPlannerBoundsJobs(t *testing.T) {
	var pl planner
	a, b := &origin{space: 1, pid: 1}, &origin{space: 2, pid: 2}
	pl.add(a, part{addr: 0, size: jobBytes + 4096})          // more than a job
	pl.add(a, part{addr: jobBytes + 4096, size: 4096})       // its neighbour: the same part
	pl.add(a, part{addr: 1 << 30, size: 4096})               // elsewhere: another part
	pl.add(a, part{addr: 2 << 30, size: 4096, forced: true}) // read in another way: another part
	pl.add(b, part{addr: 0, size: 4096})                     // of another origin
	for i := range jobParts + 1 {
		pl.add(b, part{addr: uint64(i+2) * 8192, size: 4096})
	}
	sizes := []int{}
	for _, j := range pl.jobs {
		sum := 0
		for _, p := range j.parts {
			sum += p.size
		}
		if sum != j.size || j.size > jobBytes || len(j.parts) > jobParts {
			t.Errorf("a job of %d bytes says %d, in %d parts", sum, j.size, len(j.parts))
		}
		sizes = append(sizes, j.size)
	}
	want := []int{jobBytes, 4 * 4096, jobParts * 4096, 2 * 4096}
	if !slices.Equal(sizes, want) || len(pl.jobs[1].parts) != 3 {
		t.Errorf("jobs of %v bytes, want %v", sizes, want)
	}
	if pl.bytes != jobBytes+(4+jobParts+1)*4096+4096 {
		t.Errorf("%d bytes planned", pl.bytes)
	}
}

func TestDataRunsSkipHoles(t *testing.T) {
	fd, err := unix.MemfdCreate("holes", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "holes")
	defer f.Close()
	const size = 64*4096 + 100
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{3 * 4096, 4*4096 + 5, 20 * 4096, size - 1} {
		if _, err := f.WriteAt([]byte{1}, off); err != nil {
			t.Fatal(err)
		}
	}
	type run struct{ start, end int64 }
	var got []run
	err = dataRuns(f, size, func(start, end int64) error {
		got = append(got, run{start / 4096, end / 4096})
		return nil
	})
	want := []run{{3, 5}, {20, 21}, {64, 65}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

// TestJobsFromFile copies what dataRuns found, the cut last page included.
func TestJobsFromFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	content := bytes.Repeat([]byte("0123456789abcde\n"), 1000)
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var pl planner
	if err := pl.addFile(&origin{space: 1, file: f, name: name}, int64(len(content))); err != nil {
		t.Fatal(err)
	}
	buf := bytes.Repeat([]byte{0xff}, jobBytes)
	if _, err := pl.jobs[0].copy(buf, nil); err != nil {
		t.Fatal(err)
	}
	want := append(content, make([]byte, roundUp(len(content))-len(content))...)
	if len(pl.jobs) != 1 || !bytes.Equal(buf[:pl.jobs[0].size], want) {
		t.Error("the content differs")
	}
}
