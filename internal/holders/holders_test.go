package holders

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
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
	files := map[File]string{{st.Dev, st.Ino}: path}
	found, err := Of(nil, nil).Find(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	list := found[File{st.Dev, st.Ino}]
	if len(found) != 1 || len(list) != 1 || list[0].Pid != pid || !list[0].Write || list[0].How != "fd 3" ||
		list[0].Comm != "sleep" {
		t.Errorf("found %+v, want fd 3 of pid %d", found, pid)
	}
	for _, tree := range []map[int]bool{{pid: true}, {os.Getpid(): true}} {
		if found, err := Of(tree, nil).Find(t.Context(), files); err != nil || len(found) != 0 {
			t.Errorf("without the tree %v: %+v, %v", tree, found, err)
		}
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
	key := File{st.Dev, st.Ino}
	stays, goes := hold(t, file), hold(t, file)
	f := finder{files: map[File]string{key: file.Name()}, found: map[File][]Holder{}}
	f.names = map[string]bool{"file": true}
	for _, cmd := range []*exec.Cmd{stays, goes} {
		f.descriptors(process{cmd.Process.Pid, links(procfs.Pid(cmd.Process.Pid))})
	}
	if len(f.found[key]) != 2 {
		t.Fatalf("found %+v, want two", f.found)
	}
	_ = goes.Process.Kill()
	_ = goes.Wait()
	f.lookAgain()
	if list := f.found[key]; len(list) != 1 || list[0].Pid != stays.Process.Pid {
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
