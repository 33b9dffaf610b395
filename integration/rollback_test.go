package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/restore"
)

// A restore that fails at any step leaves nothing: no process, thread, file, mount or open descriptor. Each step is
// made to fail in turn; the attempt after the last one succeeds, and the program ends as if nothing had happened.
//
// It is the only test of this package that restores in its own process, and runs while no other does.
func TestEveryStepFails(t *testing.T) {
	for _, name := range []string{
		"trees/leaderless", "fds/pipes", "vmas/deleted-file", "threads",
		"timers/posix-signal", "proc/seccomp",
	} {
		t.Run(name, func(t *testing.T) {
			p := caseNamed(t, name)
			want := control(t, p)
			tg := start(t, p)
			tg.snap()
			tg.kill()
			img, err := image.Open(tg.path("image"))
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			res := failEachStep(t, tg, img)
			tg.goOn()
			status, err := res.Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			same(t, name, result{status: status.ExitStatus(), out: tg.read("out"), files: map[string]string{}}, want)
		})
	}
}

// failEachStep returns the result of the first restore that has fewer steps than the one that is to fail.
func failEachStep(t *testing.T, tg *target, img *image.Reader) *restore.Result {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	o := restore.Options{Std: [3]*os.File{null, null, null}}
	before := traces(t, tg)
	for o.FailStep = 1; ; o.FailStep++ {
		res, err := restore.Restore(t.Context(), img, o)
		if err == nil {
			t.Logf("%d steps", o.FailStep-1)
			return res
		}
		var f *restore.Error
		if !errors.As(err, &f) || f.Class() != fault.RolledBack {
			t.Errorf("step %d: not a fault of class %d: %v", o.FailStep, fault.RolledBack, err)
		}
		for _, id := range ids(img.State()) {
			if syscall.Kill(id, 0) == nil || syscall.Tgkill(id, id, 0) == nil {
				t.Errorf("step %d: id %d is left: %v", o.FailStep, id, err)
			}
		}
		if after := traces(t, tg); !slices.Equal(after, before) {
			t.Fatalf("step %d (%v): have\n%s\nwant\n%s", o.FailStep, err, strings.Join(after, "\n"),
				strings.Join(before, "\n"))
		}
	}
}

// ids are all process and thread ids of an image.
func ids(st *model.State) []int {
	all := map[int]bool{}
	for _, p := range st.Processes {
		all[p.Pid] = true
		for _, th := range p.Threads {
			all[th.Tid] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// traces is everything a failed restore could leave: files of the target with their sizes, mounts, our descriptors,
// processes below us.
func traces(t *testing.T, tg *target) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(tg.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() {
			list = append(list, fmt.Sprintf("file %s %d bytes", path, info.Size()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	o := observe()
	list = append(list, fmt.Sprintf("%d descriptors", len(fds)), o.mounts)
	list = append(list, slices.Sorted(maps.Keys(o.files))...)
	return append(list, slices.Sorted(maps.Keys(o.procs))...)
}
