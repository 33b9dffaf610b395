package beneath_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string, trust beneath.Trust) *beneath.Dir {
	t.Helper()
	d, err := beneath.Open(path, trust)
	must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// What is no file is opened as none, and nobody waits for it.
func TestOnlyFilesAndDirectories(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o600),
		os.Symlink("file", filepath.Join(dir, "link")), os.Symlink(".", filepath.Join(dir, "here")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Mkdir(filepath.Join(dir, "sub"), 0o700),
		unix.Mknod(filepath.Join(dir, "device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	d := open(t, dir, beneath.OfOurs)
	for _, name := range []string{"link", "here", "fifo", "sub", "device"} {
		for _, flag := range []int{os.O_RDONLY, os.O_RDWR} {
			if _, err := d.Open(name, flag); err == nil {
				t.Errorf("%s was opened as a file", name)
			}
		}
		if sub, err := d.Sub(name); (err == nil) != (name == "sub") {
			t.Errorf("%s: as a directory: %v", name, err)
		} else if err == nil {
			_ = sub.Close()
		}
	}
	for _, name := range []string{"", ".", "..", "sub/file", "/etc/passwd"} {
		if _, err := d.Open(name, os.O_RDONLY); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if b, err := d.Read("file", 3); err != nil || string(b) != "tex" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := d.OpenOrCreate("link"); !errors.Is(err, beneath.ErrKind) {
		t.Error(err)
	}
}

// A file is replaced by its name, whatever has it; what it led to stays.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(victim, []byte("before"), 0o600), os.Symlink(victim, filepath.Join(dir, "note")))
	d := open(t, dir, beneath.OfOurs)
	must(t, d.Replace("note", []byte("after")))
	if b, err := os.ReadFile(victim); err != nil || string(b) != "before" {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := d.Read("note", 100); err != nil || string(b) != "after" {
		t.Errorf("%q, %v", b, err)
	}
	if names, err := d.Names(); err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
}

// Everything below goes, and nothing that links lead to.
func TestRemoveAll(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "a", "b", "c"), 0o700), os.WriteFile(filepath.Join(outside, "file"), nil, 0o600),
		os.Symlink(outside, filepath.Join(dir, "a", "link")), os.Symlink(outside, filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "a", "b", "fifo"), 0o600))
	d := open(t, dir, beneath.OfOurs)
	must(t, d.RemoveAll("a"), d.RemoveAll("link"), d.RemoveAll("nothing"))
	if names, err := d.Names(); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
	if _, err := os.Stat(filepath.Join(outside, "file")); err != nil {
		t.Error(err)
	}
}

// Names are those of the directory that was opened, wherever it is now.
func TestOpenedOnce(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "dir")
	must(t, os.Mkdir(dir, 0o700))
	d := open(t, dir, beneath.OfOurs)
	must(t, os.Rename(dir, filepath.Join(base, "away")), os.Mkdir(dir, 0o700), d.Mkdir("sub"))
	if _, err := os.Stat(filepath.Join(base, "away", "sub")); err != nil {
		t.Error(err)
	}
}

// Whose a directory and what is in it must be.
func TestTrust(t *testing.T) {
	const nobody = 65534
	for _, c := range []struct {
		uid  int
		mode uint32
		ok   bool
	}{
		{0, 0o700, true},
		{0, 0o755, true},
		{0, 0o1777, true},
		{0, 0o777, false},
		{0, 0o770, false},
		{0, 0o702, false},
		{nobody, 0o700, false},
		{nobody, 0o1777, false},
	} {
		dir := filepath.Join(t.TempDir(), "dir")
		must(t, os.Mkdir(dir, 0o700), os.Chown(dir, c.uid, 0), unix.Chmod(dir, c.mode))
		d, err := beneath.Open(dir, beneath.OfOurs)
		if foreign := errors.Is(err, &fault.Error{Code: fault.StoreForeign}); foreign == c.ok || (err == nil) != c.ok {
			t.Errorf("user %d, mode %o: %v", c.uid, c.mode, err)
		}
		if err == nil {
			_ = d.Close()
		}
		_ = open(t, dir, beneath.OfAnyone)
	}
}
