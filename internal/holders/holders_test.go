package holders

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// Who has a file open is found under whatever name it has, and told from who has another of that name; the tree and its
// children are not.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "shared file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Mkdir(filepath.Join(dir, "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	other, err := os.Create(filepath.Join(dir, "other", "shared file"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	pid := hold(t, f).Process.Pid
	hold(t, other)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	id := model.Inode(st.Dev, st.Ino)
	objects := []model.Object{{ID: id, Links: []string{path}, Mapped: true}}
	found, err := Of(nil, nil).Holders(t.Context(), objects)
	if err != nil {
		t.Fatal(err)
	}
	list := found[id]
	if len(found) != 1 || len(list) != 1 || list[0].Pid != pid || !list[0].Write || list[0].How != "fd 3" ||
		list[0].Comm != "sleep" {
		t.Errorf("found %+v, want fd 3 of pid %d", found, pid)
	}
	for _, tree := range []map[int]bool{{pid: true}, {os.Getpid(): true}} {
		if found, err := Of(tree, nil).Holders(t.Context(), objects); err != nil || len(found) != 0 {
			t.Errorf("without the tree %v: %+v, %v", tree, found, err)
		}
	}
}

// Of what has neither a name nor a number, who has the very description is told from who has another of the kind; and
// of a pipe, its link is enough.
func TestDescriptions(t *testing.T) {
	eventfd := func() *os.File {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "eventfd")
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	files := []*os.File{eventfd(), eventfd(), r}
	ids := []model.ObjectID{{Kind: model.ObjectDescription, Num: 1}, {Kind: model.ObjectDescription, Num: 2}, model.Inode(1, 2)}
	var objects []model.Object
	for i, f := range files {
		link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, model.Object{ID: ids[i], Links: []string{link}, Pid: os.Getpid(), FD: int(f.Fd())})
	}
	hold(t, eventfd())
	has := []int{hold(t, files[1]).Process.Pid, hold(t, w).Process.Pid}
	found, err := Of(map[int]bool{os.Getpid(): true}, nil).Holders(t.Context(), objects)
	if err != nil || len(found) != 0 {
		t.Errorf("below the tree: %+v, %v", found, err)
	}
	found, err = Of(nil, nil).Holders(t.Context(), objects)
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids[1:] {
		if list := found[id]; len(list) != 1 || list[0].Pid != has[i] || list[0].Comm != "sleep" {
			t.Errorf("%+v has %+v, want pid %d", id, list, has[i])
		}
	}
	if list := found[ids[0]]; len(list) != 0 {
		t.Errorf("%+v has what nobody has", list)
	}
	here, err := view.Own()
	if err != nil {
		t.Fatal(err)
	}
	if found, err = Of(nil, Here(here)).Holders(t.Context(), objects); err != nil || found[ids[0]][0].Pid != os.Getpid() {
		t.Errorf("ours: %+v, %v", found, err)
	}
}

// Who had a file for a moment, as another snapshot that looks around, has it no more at the second look.
func TestLookAgain(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	key := model.Inode(st.Dev, st.Ino)
	stays, goes := hold(t, file), hold(t, file)
	f := newFinder([]model.Object{{ID: key, Links: []string{file.Name()}}})
	for _, cmd := range []*exec.Cmd{stays, goes} {
		f.descriptors(process{cmd.Process.Pid, links(procfs.Pid(cmd.Process.Pid))})
	}
	if len(f.holders()[key]) != 2 {
		t.Fatalf("found %+v, want two", f.found)
	}
	_ = goes.Process.Kill()
	_ = goes.Wait()
	f.lookAgain()
	if list := f.holders()[key]; len(list) != 1 || list[0].Pid != stays.Process.Pid {
		t.Errorf("found %+v, want pid %d alone", list, stays.Process.Pid)
	}
	_ = stays.Process.Kill()
	_ = stays.Wait()
	if f.lookAgain(); len(f.found) != 0 {
		t.Errorf("found %+v, want nothing", f.found)
	}
}

// hold gives a file to a process of its own, as descriptor 3.
func hold(t *testing.T, file *os.File) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.ExtraFiles = []*os.File{file}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}
