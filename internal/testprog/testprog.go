// Package testprog builds the C programs that tests of several packages use as targets.
//
// The guests of the kernel matrix have no compiler: there the programs have been built by the host, without shared
// libraries, and lie beside their sources: x where x.c would be.
package testprog

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Compile builds a program from one C file. dir is where it may include from.
func Compile(source, dir, out string, flags ...string) error {
	args := append([]string{"-O1", "-pthread", "-I", dir, "-o", out, source}, flags...)
	if b, err := exec.Command("gcc", append(args, "-lrt", "-ldl")...).CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", source, err, b)
	}
	return nil
}

// A Cache builds each program once. The zero value is ready; Remove is to be called at the end of the tests.
type Cache struct {
	mu  sync.Mutex
	dir string
}

// Build returns the path of the program made from a C file, or from one beside it that was built beforehand.
func (c *Cache) Build(t testing.TB, source string) string {
	t.Helper()
	if built := strings.TrimSuffix(source, ".c"); exists(built) {
		path, err := filepath.Abs(built)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "testprog-")
		if err == nil {
			err = os.Chmod(dir, 0o755) // targets may have dropped their privileges
		}
		if err != nil {
			t.Fatal(err)
		}
		c.dir = dir
	}
	out := filepath.Join(c.dir, strings.TrimSuffix(filepath.Base(source), ".c"))
	if exists(out) {
		return out
	}
	if err := Compile(source, filepath.Dir(source), out); err != nil {
		t.Fatal(err)
	}
	return out
}

// Remove removes what was built.
func (c *Cache) Remove() {
	if c.dir != "" {
		_ = os.RemoveAll(c.dir) // a leftover in the temporary directory harms nobody
	}
}

// RemoveSemaphores removes the SysV semaphores that a program left which was killed: their key is its pid. While there
// are any on the machine, nobody can tell from /proc whose operations are to be undone.
func RemoveSemaphores(pid int) {
	if id, _, errno := unix.Syscall(unix.SYS_SEMGET, uintptr(pid), 0, 0); errno == 0 {
		_, _, _ = unix.Syscall6(unix.SYS_SEMCTL, id, 0, unix.IPC_RMID, 0, 0, 0) // the next test finds out
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
