package tracer

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
)

// The first opens that a watch is told of may have come before it knew where the process is.
func TestRelativeBeforeFirstReading(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	at := unix.AT_FDCWD
	e := &bpf.WatchEvOpen{}
	e.Fd.Head.Nr, e.Fd.Args[0] = unix.SYS_OPENAT, uint64(at)
	w := &Watcher{table: newTable()}
	for cwd, want := range map[string]string{"": filepath.Join(dir, "x"), "/elsewhere": "/elsewhere/x"} {
		if got := w.lexical(&group{pid: os.Getpid(), cwd: cwd}, e, "x"); got != want {
			t.Errorf("with %q known: %q, want %q", cwd, got, want)
		}
	}
}
