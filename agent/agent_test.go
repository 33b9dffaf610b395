package agent

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/interval"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

func TestMain(m *testing.M) {
	// What our caller left open would be in the way of snapshots of the programs that are started here.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	os.Exit(m.Run())
}

// patience is how long a test waits for something that is bound to happen, on a busy machine.
const patience = 20 * time.Second

// sleeper starts a process to watch.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func begin(t *testing.T, pid int, o Options) *Watch {
	t.Helper()
	w, err := Begin(t.Context(), pid, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func await[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("%s: nothing after %v", what, patience)
	}
	return v
}

// A watch is found, tells about itself, takes the snapshots that others ask it for, keeps others from being the watch,
// and ends when it is asked to.
func TestWatchServes(t *testing.T) {
	pid := sleeper(t).Process.Pid
	w := begin(t, pid, Options{})
	if _, err := Begin(t.Context(), pid, Options{}); !errors.Is(err, &fault.Error{Code: fault.Watched}) {
		t.Errorf("a second watch: %v", err)
	}
	if !Watched(pid) {
		t.Error("it is not found")
	}
	all, silent, err := List(t.Context())
	if i := slices.IndexFunc(all, func(s Status) bool { return s.Pid == pid }); i < 0 || all[i].Comm != "sleep" ||
		all[i].Stats.Groups != 1 {
		t.Errorf("the list is %+v, %v, %v", all, silent, err)
	}
	o := snapshot.Options{Dir: filepath.Join(t.TempDir(), "store"), Source: "watch"}
	res, err := Client{}.Snap(t.Context(), pid, o)
	if err != nil || res.Table.Source != "watch" {
		t.Fatalf("%+v, %v", res, err)
	}
	if err := end(t.Context(), pid, true); err != nil || w.ctx.Err() != nil {
		t.Errorf("it was of use, and should not end for who wants it only if it is not: %v", err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- Stop(context.Background(), pid) }()
	await(t, "the request to end", w.Told())
	if e := w.Finish(); e.Ended || e.Known {
		t.Errorf("it ended so: %+v", e)
	}
	w.Close()
	if err := await(t, "stop", stopped); err != nil {
		t.Error(err)
	}
	if Watched(pid) {
		t.Error("it is still found")
	}
	if err := Stop(t.Context(), pid); !errors.Is(err, &fault.Error{Code: fault.NoWatch}) {
		t.Errorf("stop without a watch: %v", err)
	}
}

// A watch tells how its process ended, and saves it until then.
func TestWatchSaves(t *testing.T) {
	cmd := sleeper(t)
	dir := filepath.Join(t.TempDir(), "store")
	w := begin(t, cmd.Process.Pid, Options{Saves: &Periodic{
		Options: snapshot.Options{Dir: dir, Incremental: true}, Keep: 1, Every: time.Millisecond,
		Auto: interval.Auto{MTBF: time.Hour},
	}})
	var last string
	for range 3 {
		o := await(t, "a snapshot", w.Saved())
		if o.Err != nil || o.Result == nil || o.Result.ID == last {
			t.Fatalf("%+v after %s", o, last)
		}
		last = o.Result.ID
	}
	s, err := w.Status(t.Context())
	if err != nil || s.Saves == nil || s.Saves.Taken < 3 || s.Saves.Dir != dir || s.Saves.Failed != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := unix.Kill(cmd.Process.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for done := false; !done; {
		select {
		case <-w.Saved():
		case <-w.Done():
			done = true
		case <-time.After(patience):
			t.Fatal("it does not see the end")
		}
	}
	if e := w.Finish(); !e.Ended || !e.Known || e.Status.Signal() != unix.SIGKILL {
		t.Errorf("it ended so: %+v", e)
	}
}

// What cannot be watched is told by name.
func TestWhoCannotBeWatched(t *testing.T) {
	cmd := sleeper(t)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	code := func() fault.Code {
		w, err := Begin(t.Context(), cmd.Process.Pid, Options{})
		if err == nil {
			w.Close()
			return ""
		}
		return fault.Of(err)[0].Code
	}
	for end := time.Now().Add(patience); code() != fault.IsZombie && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := code(); got != fault.IsZombie {
		t.Errorf("a zombie: %q", got)
	}
	_ = cmd.Wait() // it was killed
	if got := code(); got != fault.NoSuchPid {
		t.Errorf("nobody: %q", got)
	}
}

// A watch that takes the place of another is started with the flags of that.
func TestFlagsOfFormer(t *testing.T) {
	c := Client{Flags: map[string]bool{"every": true, "no-dlopen": false, "exclude": true}}
	line := []string{
		"bpfckpt", "watch", "4711", "--json", "--every", "30s", "-no-dlopen", "--exclude=[heap]", "--metrics=:1", "--exclude",
	}
	want := []string{"--every=30s", "--no-dlopen", "--exclude=[heap]"}
	if got := c.flagsOf(line); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := c.flagsOf([]string{"bpfckpt", "snap", "--every=1s"}); got != nil {
		t.Errorf("of another verb: %q", got)
	}
}
