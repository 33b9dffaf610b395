package holders

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
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
	hold := func(file *os.File) int {
		cmd := exec.Command("sleep", "1000")
		cmd.ExtraFiles = []*os.File{file}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd.Process.Pid
	}
	pid := hold(f)
	hold(other)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	files := map[File]string{{st.Dev, st.Ino}: path}
	found, err := Find(t.Context(), files, nil)
	if err != nil {
		t.Fatal(err)
	}
	list := found[File{st.Dev, st.Ino}]
	if len(found) != 1 || len(list) != 1 || list[0].Pid != pid || !list[0].Write || list[0].How != "fd 3" ||
		list[0].Comm != "sleep" {
		t.Errorf("found %+v, want fd 3 of pid %d", found, pid)
	}
	for _, tree := range []map[int]bool{{pid: true}, {os.Getpid(): true}} {
		if found, err := Find(t.Context(), files, tree); err != nil || len(found) != 0 {
			t.Errorf("without the tree %v: %+v, %v", tree, found, err)
		}
	}
}
