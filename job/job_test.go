package job

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/agent"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

// waitVerb makes the test binary the command of a job: it ends with status 7 when there is a file. It uses nothing of
// the Go runtime that rests on an epoll descriptor.
const waitVerb = "wait-for"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == waitVerb {
		for unix.Access(os.Args[2], unix.F_OK) != nil {
			nap := unix.NsecToTimespec(2e6)
			_ = unix.Nanosleep(&nap, nil) // shorter after a signal is as good
		}
		os.Exit(7)
	}
	// What our caller left open would be in the way of snapshots of the programs that are started here.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	os.Exit(m.Run())
}

// teller writes down what it is told.
type teller struct {
	t    *testing.T
	told []string
}

func (r *teller) tell(format string, args ...any) {
	r.told = append(r.told, fmt.Sprintf(format, args...))
}

func (r *teller) Note(text string)                   { r.t.Logf("note: %s", text) }
func (r *teller) Resumed(from image.Info)            { r.tell("resumed %s", from.ID) }
func (r *teller) Foreseen(_ int, list fault.List)    { r.t.Logf("foreseen: %v", list) }
func (r *teller) GaveTerminal()                      { r.tell("gave") }
func (r *teller) Saving() (func(_, _ int64), func()) { return nil, func() {} }
func (r *teller) Saved(s *snapshot.Result)           { r.tell("saved %s", s.ID) }
func (r *teller) NotSaved(err error)                 { r.tell("not saved: %v", err) }
func (r *teller) Interval(string)                    {}
func (r *teller) PeriodicFailed(err error)           { r.tell("failed: %v", err) }

func (r *teller) Ended(ws unix.WaitStatus, head string) {
	r.tell("ended with %d after %s", ExitCode(ws), head)
}

// command is a job in a directory; letGo has its command end.
func command(t *testing.T, r *teller) (o Options, letGo func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "go")
	o = Options{Dir: filepath.Join(dir, "store"), Args: []string{self, waitVerb, file}, Observer: r}
	return o, func() {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func start(t *testing.T, o Options) *Job {
	t.Helper()
	j, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

func wait(t *testing.T, j *Job) End {
	t.Helper()
	end, err := j.Wait()
	if err != nil {
		t.Fatal(err)
	}
	j.Close()
	return end
}

// A job that is saved by a signal goes on in the next run, with the same process id; one that has ended by itself
// begins afresh, and one job at a time is in a directory.
func TestSavedAndGoneOn(t *testing.T) {
	r := &teller{t: t}
	o, letGo := command(t, r)
	j := start(t, o)
	if _, err := Start(t.Context(), o); !errors.Is(err, &fault.Error{Code: fault.RunStore}) {
		t.Errorf("a second one at once: %v", err)
	}
	if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	first := wait(t, j)
	if first.Saved == nil || first.Resumed != "" {
		t.Fatalf("%+v; told %q", first, r.told)
	}

	other := o
	other.Args = []string{"true"}
	if _, err := Start(t.Context(), other); !errors.Is(err, &fault.Error{Code: fault.OtherCommand}) {
		t.Errorf("another command: %v", err)
	}

	j = start(t, o)
	letGo()
	second := wait(t, j)
	if second.Resumed != first.Saved.ID || second.Pid != first.Pid || second.Saved != nil ||
		ExitCode(second.Status) != 7 {
		t.Errorf("%+v after %+v", second, first)
	}

	third := wait(t, start(t, o))
	if third.Resumed != "" || ExitCode(third.Status) != 7 {
		t.Errorf("after the end: %+v", third)
	}
	want := fmt.Sprintf("saved %[1]s|resumed %[1]s|ended with 7 after %[1]s|ended with 7 after %[1]s", first.Saved.ID)
	if got := strings.Join(r.told, "|"); got != want {
		t.Errorf("told %s instead of %s", got, want)
	}
}

// A job is also saved now and then, and goes on from the last image if it was killed.
func TestSavedNowAndThen(t *testing.T) {
	r := &teller{t: t}
	o, letGo := command(t, r)
	o.Saves = &agent.Periodic{Options: snapshot.Options{Incremental: true}, Keep: 2, Every: 20 * time.Millisecond}
	j := start(t, o)
	pid := j.place.root
	go func() {
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if images, err := image.List(o.Dir); err == nil && len(images) > 1 {
				break
			}
		}
		_ = unix.Kill(pid, unix.SIGKILL)
	}()
	if end := wait(t, j); end.Saved != nil || !end.Status.Signaled() {
		t.Fatalf("%+v; told %q", end, r.told)
	}
	images, err := image.List(o.Dir)
	if err != nil || len(images) < 1 || len(images) > 2 {
		t.Fatalf("%d images, %v", len(images), err)
	}
	head := images[len(images)-1].ID
	o.Saves = nil
	j = start(t, o)
	letGo()
	if end := wait(t, j); end.Resumed != head || ExitCode(end.Status) != 7 {
		t.Errorf("%+v instead of going on from %s; told %q", end, head, r.told)
	}
}
