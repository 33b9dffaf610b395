package ptrace

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
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
		g, err := tr.Freeze(context.Background(), []int{cmd.Process.Pid}, 5*time.Second)
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

// The kernel says EPERM of a process that has ended, as if it were somebody else's.
func TestFreezeOfTheDead(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	pid := cmd.Process.Pid
	for !dead(&Thread{Pid: pid, Tid: pid}) {
		time.Sleep(time.Millisecond)
	}
	tr := New()
	defer tr.Close()
	if _, err := tr.Freeze(context.Background(), []int{pid}, time.Second); !errors.Is(err, &fault.Error{Code: fault.TargetGone}) {
		t.Errorf("want E_TARGET_GONE, got %v", err)
	}
}
