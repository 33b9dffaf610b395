package snapshot

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/procid"
	"github.com/bpfckpt/bpfckpt/internal/testprog"
	"github.com/bpfckpt/bpfckpt/internal/view"
)

// programs are the compiled test programs.
var programs testprog.Cache

// program returns the path of a test program, built from testdata/idle.c here or one of package integration's.
func program(t *testing.T, name string) string {
	t.Helper()
	src := "testdata/" + name + ".c"
	if name != "idle" {
		src = "../integration/" + src
	}
	return programs.Build(t, src)
}

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		os.Exit(helper())
	}
	// What whoever started the tests left open must not get into the targets.
	fds, err := procfs.Pid(os.Getpid()).FDs()
	if err != nil {
		panic(err)
	}
	for _, fd := range fds {
		if fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	code := m.Run()
	programs.Remove()
	os.Exit(code)
}

// target is a running test program that waits, in a directory of its own, for the file "go" or the end of its input.
type target struct {
	t   *testing.T
	cmd *exec.Cmd
	dir string
	in  io.Closer
	out *bufio.Reader
}

// start runs one case of a test program and waits until it is ready.
func start(t *testing.T, name, testCase string) *target {
	t.Helper()
	tg := &target{t: t, dir: t.TempDir(), cmd: exec.Command(program(t, name), testCase)}
	tg.cmd.Dir = tg.dir
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	tg.cmd.Stdout, tg.cmd.Stderr = w, w
	if tg.in, err = tg.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := tg.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		_ = tg.cmd.Process.Kill()
		_ = tg.cmd.Wait()
		r.Close()
	})
	tg.out = bufio.NewReader(r)
	line, err := tg.out.ReadString('\n')
	if line != "READY\n" {
		t.Fatalf("%s %s says %q, %v", name, testCase, line, err)
	}
	return tg
}

func (tg *target) pid() int { return tg.cmd.Process.Pid }

// finish lets the program go on to its end and requires that it found everything in order.
func (tg *target) finish() {
	tg.t.Helper()
	if err := os.WriteFile(filepath.Join(tg.dir, "go"), nil, 0o644); err != nil {
		tg.t.Fatal(err)
	}
	if err := tg.in.Close(); err != nil {
		tg.t.Fatal(err)
	}
	rest, err := io.ReadAll(tg.out)
	if err != nil {
		tg.t.Fatal(err)
	}
	if !strings.HasSuffix(string(rest), "OK\n") {
		tg.t.Errorf("the program says %q", rest)
	}
	if err := tg.cmd.Wait(); err != nil {
		tg.t.Errorf("the program ended with %v", err)
	}
}

// patience is how long a test waits for something that is bound to happen, on a busy machine.
const patience = 20 * time.Second

// awaitState waits until the process is in one of the states of proc_pid_stat(5).
func awaitState(t *testing.T, pid int, states string) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		s, err := procfs.Pid(pid).Stat()
		if err == nil && strings.IndexByte(states, s.State) >= 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("pid %d is in state %c, not in one of %s (%v)", pid, s.State, states, err)
		}
		time.Sleep(time.Millisecond)
	}
}

func kill(t *testing.T, pid int, sig unix.Signal) {
	t.Helper()
	if err := unix.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

// helperEnv makes the test binary a tool that takes a snapshot of the pid it names, into the store in the first
// argument, with the source in the second.
const helperEnv = "SNAPSHOT_TEST_PID"

func helper() int {
	pid, err := strconv.Atoi(os.Getenv(helperEnv))
	if err == nil {
		_, err = Snap(context.Background(), pid, Options{Dir: os.Args[1], Source: os.Args[2]})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// named returns the view of the tests, which is as the tool's, and the name that a process has in it.
func named(t *testing.T, pid int) (*view.View, procid.ID) {
	t.Helper()
	v, err := view.Own()
	if err != nil {
		t.Fatal(err)
	}
	id, err := v.Process(pid)
	if err != nil {
		t.Fatal(err)
	}
	return v, id
}
