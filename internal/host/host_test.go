package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

func own(t *testing.T) *view.View {
	t.Helper()
	v, err := view.Own()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestRead(t *testing.T) {
	h, err := Read(own(t), &model.State{}, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if h.Kernel == "" || h.XFeatures&3 != 3 || h.PidMax == 0 || h.MapMax == 0 || h.BootID == "" || len(h.CPUs) == 0 ||
		len(h.Facts) == 0 {
		t.Errorf("%+v", h)
	}
	if i := slices.IndexFunc(h.VDSO, func(s plan.Special) bool { return s.Name == "[vdso]" }); i >= 0 &&
		len(h.VDSOHash) != 16 {
		t.Errorf("the vDSO has the hash %q", h.VDSOHash)
	}
	for i, l := range h.Limits {
		if l.Cur > l.Max {
			t.Errorf("limit %d: %v", i, l)
		}
	}
}

// A name is looked at once, whatever is there, and the mount it is on becomes a fact.
func TestLook(t *testing.T) {
	dir := t.TempDir()
	file, fifo, gone := filepath.Join(dir, "file"), filepath.Join(dir, "fifo"), filepath.Join(dir, "gone")
	if err := os.WriteFile(file, []byte("12345"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	st := &model.State{
		Processes: []model.Process{{Pid: 1, Cwd: dir, Root: "/", Exe: model.MappedFile{Path: file}, VMAs: []model.VMA{
			{Kind: model.VMAFile, File: model.MappedFile{Path: fifo, BuildID: "00", Size: 0}},
		}}},
		Files: []model.File{{ID: 1, Kind: "fifo", Path: fifo}, {ID: 2, Kind: "dir", Path: gone}},
	}
	h := &plan.Host{Files: map[string]plan.File{}}
	if err := Look(own(t), st, h); err != nil {
		t.Fatal(err)
	}
	if f := h.Files[file]; f.Gone != "" || f.Size != 5 || f.Mode&unix.S_IFMT != unix.S_IFREG || f.NoExec {
		t.Errorf("the file: %+v", f)
	}
	if f := h.Files[fifo]; f.Mode&unix.S_IFMT != unix.S_IFIFO {
		t.Errorf("the FIFO: %+v", f)
	}
	if h.Files[gone].Gone == "" {
		t.Error("what is not there is there")
	}
	if !slices.ContainsFunc(h.Facts, func(f model.Fact) bool {
		return strings.HasPrefix(f.Name, "mount /") &&
			f.Value != ""
	}) {
		t.Errorf("no mount among the facts: %v", h.Facts)
	}
}

func TestMountOf(t *testing.T) {
	mounts := map[string]string{"/": "a", "/data": "b", "/data/job": "c"}
	for name, want := range map[string]string{
		"/data/job/x": "/data/job", "/data/jobs": "/data", "/data": "/data",
		"/x": "/", "/": "/", "relative": "/",
	} {
		if at := mountOf(mounts, name); at != want {
			t.Errorf("%s is on %s, not %s", name, at, want)
		}
	}
}
