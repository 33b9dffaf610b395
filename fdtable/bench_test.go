package fdtable

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkCapture is what a process with 1,000 descriptors costs under the freeze.
func BenchmarkCapture(b *testing.B) {
	for _, kind := range []string{"files", "pipes"} {
		b.Run(kind, func(b *testing.B) {
			t := &testing.T{}
			dir := b.TempDir()
			var fds []int
			for i := 0; len(fds) < 1000; i++ {
				if kind == "pipes" {
					fds = append(fds, pipeWith(0, "x")(t, "")...)
					continue
				}
				path := filepath.Join(dir, fmt.Sprint(i))
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					b.Fatal(err)
				}
				fds = append(fds, open(t, path, unix.O_RDWR))
			}
			st := stateOf(t, fds...)
			for b.Loop() {
				c := *st
				c.Pipes = nil
				if faults := Capture(context.Background(), Input{State: &c, View: here(), FD: dupOwn}); len(faults) != 0 {
					b.Fatal(faults)
				}
			}
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
		})
	}
}
