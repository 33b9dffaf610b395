package ptrace

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFreezeAndThaw(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	tr := New()
	defer tr.Close()
	for range 3 {
		start := time.Now()
		g, err := tr.Freeze(context.Background(), []int{cmd.Process.Pid}, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		th := g.Threads()[0]
		r, err := th.Regs()
		if err != nil {
			t.Fatal(err)
		}
		xs, err := th.XState(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := th.Rseq(); err != nil {
			t.Error(err)
		}
		if _, err := th.SUD(); err != nil && !errors.Is(err, unix.EIO) { // before 6.4
			t.Error(err)
		}
		if _, _, err := th.SeccompFilters(); err != nil {
			t.Error(err)
		}
		if tracerOf(th.Tid) == 0 {
			t.Error("not traced while frozen")
		}
		if err := g.Thaw(); err != nil {
			t.Fatal(err)
		}
		if tracerOf(th.Tid) != 0 {
			t.Error("traced after thaw")
		}
		t.Logf("freeze %v, rax %d orig %d, xstate %d bytes", took, int64(r.Rax), int64(r.OrigRax), len(xs))
	}
}
