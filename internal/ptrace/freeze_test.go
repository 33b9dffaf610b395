package ptrace

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// patience is how long a test waits for what happens at once on a machine that is not busy.
const patience = 30 * time.Second

// sleeper starts a process that sleeps until the test ends.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func TestFreezeAndThaw(t *testing.T) {
	cmd := sleeper(t)
	tr := New()
	defer tr.Close()
	for range 3 {
		start := time.Now()
		g, err := tr.Freeze(context.Background(), []int{cmd.Process.Pid}, patience)
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
		t.Logf("freeze %v, %s, xstate %d bytes", took, r.describe(), len(xs))
	}
}

// A thread that could not be stopped in time is traced still. The next try goes on with it.
func TestFreezeAgain(t *testing.T) {
	cmd := exec.Command(compiled(t, "vforks"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var child int
	if _, err := fmt.Fscan(out, &child); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(child, unix.SIGKILL) }()
	tr := New()
	defer tr.Close()
	for range 2 {
		if _, err := tr.Freeze(t.Context(), []int{cmd.Process.Pid}, 20*time.Millisecond); !errors.Is(err,
			&fault.Error{Code: fault.Freeze}) {
			t.Fatalf("want E_FREEZE, got %v", err)
		}
	}
	if err := unix.Kill(child, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	g, err := tr.Freeze(t.Context(), []int{cmd.Process.Pid}, patience)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Threads()[0].Regs(); err != nil {
		t.Error(err)
	}
	if err := g.Thaw(); err != nil {
		t.Error(err)
	}
	if pid := tracerOf(cmd.Process.Pid); pid != 0 {
		t.Errorf("traced by %d after thaw", pid)
	}
}

// One that stops after it was given up runs on as soon as its tracer has anything to do, whatever that is.
func TestFreezeOfAnother(t *testing.T) {
	cmd := sleeper(t)
	tr := New()
	defer tr.Close()
	late := &Thread{Pid: cmd.Process.Pid, Tid: cmd.Process.Pid, t: tr}
	if err := tr.Do(func() error { return late.seize(0) }); err != nil {
		t.Fatal(err)
	}
	tr.left = map[int]*Thread{late.Tid: late}
	for end := time.Now().Add(patience); tracerOf(late.Tid) != 0; time.Sleep(time.Millisecond) {
		if _, err := tr.Freeze(t.Context(), nil, patience); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatal("it is still traced")
		}
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
	if _, err := tr.Freeze(context.Background(), []int{pid}, patience); !errors.Is(err,
		&fault.Error{Code: fault.TargetGone}) {
		t.Errorf("want E_TARGET_GONE, got %v", err)
	}
}

// The exit status of a child of ours that is killed while it is stopped is for whoever waits for it, not for the
// tracer.
func TestDeathOfOurChild(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	tr := New()
	defer tr.Close()
	th := &Thread{Pid: pid, Tid: pid, t: tr}
	err := tr.Do(func() error {
		if err := request(requestSeize, pid, 0, 0); err != nil {
			return err
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return err
		}
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			switch _, gone, err := th.pollStop(); {
			case err != nil || gone:
				return err
			case time.Now().After(end):
				return errors.New("its death is not seen")
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState == nil ||
		cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("waiting for it: %v", err)
	}
}

// TestFreezeLeavesOutTheDead freezes a process together with others that end meanwhile: those are left out, whenever
// they end.
func TestFreezeLeavesOutTheDead(t *testing.T) {
	root := sleeper(t)
	tr := New()
	defer tr.Close()
	left := 0
	for i := range 40 {
		cmd := exec.Command("sh", "-c", "exit 0")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := cmd.Process.Pid
		time.Sleep(time.Duration(i) * 100 * time.Microsecond) // it is somewhere between its start and its end
		g, err := tr.Freeze(context.Background(), []int{root.Process.Pid, pid, 1<<22 + 1}, patience)
		if err != nil {
			t.Fatal(err)
		}
		if len(g.Of(root.Process.Pid)) != 1 || len(g.Of(1<<22+1)) != 0 {
			t.Errorf("%d threads of the root, %d of nobody", len(g.Of(root.Process.Pid)), len(g.Of(1<<22+1)))
		}
		if len(g.Of(pid)) == 0 {
			left++
		}
		if err := g.Add(context.Background(), []int{1<<22 + 2}, patience); err != nil {
			t.Error(err)
		}
		if err := g.Thaw(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
	}
	t.Logf("%d of 40 had ended", left)
}
