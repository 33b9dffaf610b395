package snapshot

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

func TestTreeWithZombie(t *testing.T) {
	tg := start(t, "idle", "tree")
	tree, err := findTree(tg.pid())
	if err != nil {
		t.Fatal(err)
	}
	if len(tree) != 4 || tree[0] != tg.pid() {
		t.Fatalf("the tree is %v", tree)
	}
	res, r := snap(t, tg.pid(), Options{})
	st := r.State()
	if !slices.Equal(slices.Sorted(slices.Values(res.Pids)), slices.Sorted(slices.Values(tree))) {
		t.Errorf("saved %v of %v", res.Pids, tree)
	}
	zombies := 0
	for _, p := range st.Processes {
		s, err := procfs.Pid(p.Pid).Stat()
		if err != nil {
			t.Fatal(err)
		}
		if p.PPid != s.PPid || p.Pgid != s.Pgrp || p.Sid != s.Session {
			t.Errorf("pid %d: parent %d, group %d, session %d", p.Pid, p.PPid, p.Pgid, p.Sid)
		}
		if p.Zombie {
			zombies++
			if p.ExitCode != 7<<8 || p.ExitSignal != int(unix.SIGCHLD) {
				t.Errorf("the dead child has status %#x and signal %d", p.ExitCode, p.ExitSignal)
			}
		}
		requireFreeOrZombie(t, p)
	}
	if zombies != 1 {
		t.Errorf("%d zombies", zombies)
	}
	tg.finish()
}

func requireFreeOrZombie(t *testing.T, p model.Process) {
	t.Helper()
	if !p.Zombie {
		requireFree(t, p.Pid)
	}
}

func TestStopLeavesTreeStopped(t *testing.T) {
	tg := start(t, "idle", "tree")
	res, r := snap(t, tg.pid(), Options{Stop: true, Source: "proc"})
	for _, p := range r.State().Processes {
		if p.Zombie {
			continue
		}
		awaitState(t, p.Pid, "T")
		if p.Stopped != 0 {
			t.Errorf("pid %d is stopped in the image by signal %d", p.Pid, p.Stopped)
		}
		if err := unix.Kill(p.Pid, unix.SIGCONT); err != nil {
			t.Error(err)
		}
	}
	if res.FreezeUS < res.Phases.Publish {
		t.Error("it was let go before the image was published")
	}
	tg.finish()
}

func TestKillEndsTree(t *testing.T) {
	tg := start(t, "idle", "tree")
	res, _ := snap(t, tg.pid(), Options{Kill: true, Source: "proc"})
	for _, pid := range res.Pids {
		s, err := procfs.Pid(pid).Stat()
		if err == nil && !isZombie(&s) {
			t.Errorf("pid %d lives", pid)
		}
	}
}

// TestJobStopSurvives takes a snapshot of a process in a job-control stop: it stays in it, and the image says so.
func TestJobStopSurvives(t *testing.T) {
	tg := start(t, "idle", "stopped")
	awaitState(t, tg.pid(), "T")
	_, r := snap(t, tg.pid(), Options{Source: "proc"})
	if got := r.State().Processes[0].Stopped; got != int(unix.SIGSTOP) {
		t.Errorf("stopped by signal %d in the image", got)
	}
	awaitState(t, tg.pid(), "T")
	s, err := procfs.Pid(tg.pid()).Status()
	if err != nil || s.TracerPid != 0 {
		t.Errorf("tracer %d, %v", s.TracerPid, err)
	}
	kill(t, tg.pid(), unix.SIGCONT)
	tg.finish()
}

// A process that is ending has left its namespaces: that is no reason to refuse it.
func TestNoNamespacesOfTheDead(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	pid := cmd.Process.Pid
	awaitState(t, pid, "Z")
	v, _ := named(t, os.Getpid())
	around, err := readHostContext(v, os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if list := around.blockers(pid, []int{pid}, nil); len(list) > 0 {
		t.Errorf("%v", list)
	}
}

// TestChildrenComeAndGo saves a shell whose commands begin and end all the time, also those that have executed their
// program only just: it can be saved at any moment, by every source.
func TestChildrenComeAndGo(t *testing.T) {
	cmd := exec.Command("sh", "-c", "while :; do /bin/true; (/bin/true & /bin/true; wait) | /bin/cat; done")
	cmd.Dir = t.TempDir()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for _, source := range []string{"", "proc"} {
		for range 12 {
			o := Options{Source: source, Dir: filepath.Join(cmd.Dir, "store"), Compress: image.LevelNone}
			_, err := Snap(t.Context(), cmd.Process.Pid, o)
			// On a busy machine a child of vfork(2) may wait long for its turn to execute its program.
			if err != nil && !errors.Is(err, &fault.Error{Code: fault.Shared}) &&
				!errors.Is(err, &fault.Error{Code: fault.Freeze}) {
				t.Errorf("source %q: %v", source, err)
			}
		}
	}
}
