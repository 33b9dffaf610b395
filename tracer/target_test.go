package tracer

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/testprog"
	"github.com/bpfckpt/bpfckpt/model"
)

// programs are the C programs of this package and of package integration, each compiled once.
var programs testprog.Cache

func TestMain(m *testing.M) {
	code := m.Run()
	programs.Remove()
	os.Exit(code)
}

// program returns a test program.
func program(t testing.TB, name string) string {
	t.Helper()
	if _, err := os.Stat("testdata/" + name + ".c"); err == nil {
		return programs.Build(t, "testdata/"+name+".c")
	}
	return programs.Build(t, "../integration/testdata/"+name+".c")
}

// casesOf lists the cases of a test program.
func casesOf(t testing.TB, name string) []string {
	t.Helper()
	out, err := exec.Command(program(t, name)).Output()
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(out))
	if guest() { // each case takes seconds there
		names = slices.DeleteFunc(names, func(n string) bool { return len(n)%4 != 0 || n == "many" })
	}
	return names
}

// target is a running test program that has said READY.
type target struct {
	cmd *exec.Cmd
	pid int
	dir string

	said []string // before READY
}

// start runs a program in a directory of its own and waits for READY. It is killed, with its descendants, at the end of
// the test.
func start(t testing.TB, name string, args ...string) *target {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program(t, name), args...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		testprog.RemoveSemaphores(cmd.Process.Pid)
	})
	ready := make(chan string, 1)
	var said []string
	go func() {
		s := bufio.NewScanner(out)
		for s.Scan() {
			if s.Text() == "READY" || strings.HasPrefix(s.Text(), "cannot set up") {
				ready <- s.Text()
				return
			}
			said = append(said, s.Text())
		}
		ready <- "the program ended"
	}()
	select {
	case line := <-ready:
		if line != "READY" {
			t.Skipf("%s %v: %s", name, args, line)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("%s %v never said READY", name, args)
	}
	return &target{cmd: cmd, pid: cmd.Process.Pid, dir: dir, said: said}
}

// freeze stops the target for the rest of the test.
func (tg *target) freeze(t testing.TB) *ptrace.Group {
	t.Helper()
	g, thaw := tg.stop(t)
	t.Cleanup(thaw)
	return g
}

// stop stops the target until thaw is called.
func (tg *target) stop(t testing.TB) (g *ptrace.Group, thaw func()) {
	t.Helper()
	tr := ptrace.New()
	g, err := tr.Freeze(context.Background(), []int{tg.pid}, 5*time.Second)
	if err != nil {
		tr.Close()
		t.Fatal(err)
	}
	return g, func() {
		_ = g.Thaw()
		tr.Close()
	}
}

// newIter loads the iterators for one test.
func newIter(t testing.TB) *Iter {
	t.Helper()
	it, err := NewIter()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { it.Close() })
	return it
}

// collect reads the state of one process.
func collect(t testing.TB, src kstate.Source, pid int, g *ptrace.Group) (*model.Process, *kstate.Collected) {
	t.Helper()
	c, err := src.Collect(context.Background(), []int{pid}, g)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Processes) != 1 {
		t.Fatalf("%d processes", len(c.Processes))
	}
	return &c.Processes[0], c
}
