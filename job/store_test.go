package job

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// One run at a time works in a directory, whatever it is called, also while it is not there yet, or has been made
// meanwhile.
func TestRunLock(t *testing.T) {
	base := t.TempDir()
	dir, other := filepath.Join(base, "a", "job"), filepath.Join(base, "link", "job")
	if err := os.Mkdir(filepath.Join(base, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	refused := func(when string) {
		t.Helper()
		for _, path := range []string{dir, other} {
			l, err := lockRun(path)
			if !errors.Is(err, &fault.Error{Code: fault.RunStore}) {
				t.Errorf("%s, %s: %v", when, path, err)
			}
			if err == nil {
				l.release()
			}
		}
	}
	l, err := lockRun(dir)
	if err != nil {
		t.Fatal(err)
	}
	refused("before it is there")
	beside, err := lockRun(filepath.Join(base, "a", "other"))
	if err != nil {
		t.Fatal(err)
	}
	beside.release()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := l.hold(dir); err != nil {
		t.Fatal(err)
	}
	refused("once it is there")
	l.release()
	if l, err = lockRun(other); err != nil {
		t.Fatal(err)
	}
	refused("by the other name")
	l.release()
}

func TestEndsWith(t *testing.T) {
	for _, c := range []struct {
		was, args []string
		want      bool
	}{
		{[]string{"./a", "b"}, []string{"./a", "b"}, true},
		{[]string{"/bin/sh", "./a", "b"}, []string{"./a", "b"}, true},
		{[]string{"/usr/bin/env", "python3", "./a"}, []string{"./a"}, true},
		{[]string{"sh", "-c", "x", "./a"}, []string{"./a"}, false},
		{[]string{"./a", "c"}, []string{"./a", "b"}, false},
		{[]string{"b"}, []string{"./a", "b"}, false},
	} {
		if got := endsWith(c.was, c.args); got != c.want {
			t.Errorf("%q, %q: %v", c.was, c.args, got)
		}
	}
}

// The note of a store is neither read nor written through a link, and a FIFO in its place makes nobody wait.
func TestNoteInPlaceOfAnother(t *testing.T) {
	dir := t.TempDir()
	note, outside := filepath.Join(dir, noteFile), filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte(`{"args":["x"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, put := range map[string]func() error{
		"a link": func() error { return os.Symlink(outside, note) },
		"a FIFO": func() error { return unix.Mkfifo(note, 0o600) },
	} {
		if err := put(); err != nil {
			t.Fatal(err)
		}
		if n, ok, err := readNote(dir); err == nil {
			t.Errorf("%s: read as %v, %v", what, n, ok)
		}
		if err := writeNote(dir, runNote{Args: []string{"y"}}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if n, ok, err := readNote(dir); err != nil || !ok || n.Args[0] != "y" {
			t.Errorf("%s: then %v, %v, %v", what, n, ok, err)
		}
		if text, err := os.ReadFile(outside); err != nil || string(text) != `{"args":["x"]}` {
			t.Errorf("%s: outside there is %q, %v", what, text, err)
		}
		if err := os.Remove(note); err != nil {
			t.Fatal(err)
		}
	}
}
