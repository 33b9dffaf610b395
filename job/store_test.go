package job

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

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
