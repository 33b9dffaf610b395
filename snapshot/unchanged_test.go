package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// passing are the lines of a status that change by themselves: being stopped is a context switch, the page cache is
// everybody's, and before Linux 6.2 counts of pages lag behind. The source proc maps a page of its own for a moment,
// which shows in the largest size there was.
var passing = []string{
	"voluntary_ctxt_switches", "nonvoluntary_ctxt_switches", "SigQ", "VmHWM", "VmRSS", "RssFile",
	"RssAnon", "VmPeak",
}

// waiting starts an idle target whose threads all wait.
func waiting(t *testing.T) *target {
	t.Helper()
	tg := start(t, "idle", "idle")
	tids, err := procfs.Pid(tg.pid()).Tasks()
	if err != nil {
		t.Fatal(err)
	}
	// They may sleep on their way to where they wait, too: only the calls tell that they are there.
	calls := []int{unix.SYS_READ, unix.SYS_FUTEX, sysPause}
	if len(tids) != len(calls) {
		t.Fatalf("threads %v", tids)
	}
	for i, tid := range tids {
		awaitCall(t, tg.pid(), tid, calls[i])
	}
	return tg
}

// awaitCall waits until a thread sleeps in a system call.
func awaitCall(t *testing.T, pid, tid, nr int) {
	t.Helper()
	want := fmt.Sprintf("%d ", nr)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", pid, tid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(b), want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("thread %d is in %q, not in call %d", tid, b, nr)
		}
	}
}

// observe returns what /proc shows of a process that waits: everything a snapshot could have changed.
func observe(t *testing.T, pid int) map[string]string {
	t.Helper()
	seen := map[string]string{}
	read := func(name string) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			t.Fatal(err)
		}
		seen[name] = string(b)
	}
	for _, name := range []string{"maps", "limits", "timers", "oom_score_adj", "personality", "cmdline", "environ"} {
		read(name)
	}
	tids, err := procfs.Pid(pid).Tasks()
	if err != nil {
		t.Fatal(err)
	}
	for _, tid := range tids {
		// The registers of a system call, where the thread waits in it, and the stack pointer: what a lost restart
		// would change.
		read(fmt.Sprintf("task/%d/syscall", tid))
		status := fmt.Sprintf("task/%d/status", tid)
		read(status)
		var keep []string
		for line := range strings.Lines(seen[status]) {
			if key, _, _ := strings.Cut(line, ":"); !slices.Contains(passing, key) {
				keep = append(keep, line)
			}
		}
		seen[status] = strings.Join(keep, "")
	}
	fds, err := procfs.Pid(pid).FDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		link, err := procfs.Pid(pid).Link(fmt.Sprintf("fd/%d", fd))
		if err != nil {
			t.Fatal(err)
		}
		seen[fmt.Sprintf("fd/%d", fd)] = link
		read(fmt.Sprintf("fdinfo/%d", fd))
	}
	return seen
}

// lineDiff returns the lines that only one of two texts has.
func lineDiff(was, is string) string {
	only := func(in, other string) (out string) {
		for line := range strings.Lines(in) {
			if !strings.Contains(other, line) {
				out += line
			}
		}
		return out
	}
	return fmt.Sprintf("was %q, is %q", only(was, is), only(is, was))
}

// unchanged requires that a process soon looks as it did. It may take a moment to get back to where it waited.
func unchanged(t *testing.T, pid int, before map[string]string) {
	t.Helper()
	var differ []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		differ = differ[:0]
		after := observe(t, pid)
		for name, text := range before {
			if after[name] != text {
				differ = append(differ, name+": "+lineDiff(text, after[name]))
			}
		}
		if len(differ) == 0 && len(after) == len(before) {
			return
		}
	}
	t.Errorf("the snapshot left traces: %s", strings.Join(differ, "\n"))
}

func TestTargetIsAsBefore(t *testing.T) {
	tg := waiting(t)
	before := observe(t, tg.pid())
	store := filepath.Join(t.TempDir(), "store")
	for range 3 {
		snap(t, tg.pid(), Options{Dir: store})
		unchanged(t, tg.pid(), before)
	}
	tg.finish()
}

// wantFault requires that err is, or contains, a fault with the given code, and returns it.
func wantFault(t *testing.T, err error, code fault.Code) *fault.Error {
	t.Helper()
	var list fault.List
	if errors.As(err, &list) {
		for _, e := range list {
			if e.Code == code {
				return e
			}
		}
	}
	var e *fault.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got %v, want %s", err, code)
	}
	if e.Advice() == "" || strings.Contains(e.Error(), "\n") {
		t.Errorf("not one line with a remedy: %q", e.Error())
	}
	return e
}

// emptyStore requires that no image, and no part of one, is below dir.
func emptyStore(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "lock" && d.Name() != "STORE" {
			t.Errorf("%s stays", path)
		}
		return nil
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestFailedSnapshotLeavesNoTrace(t *testing.T) {
	full := filepath.Join(t.TempDir(), "full")
	if err := os.Mkdir(full, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", full, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(full, unix.MNT_DETACH) }()
	fixed := filepath.Join(t.TempDir(), "fixed")
	if err := os.Mkdir(fixed, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", fixed, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(fixed, unix.MNT_DETACH) }()
	tg := waiting(t)
	before := observe(t, tg.pid())
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		o    Options
		want fault.Code
	}{
		{
			"full disk", context.Background(),
			Options{Source: "proc", Dir: full, Compress: image.LevelNone},
			fault.StoreFull,
		},
		{
			"full disk, stopped", context.Background(),
			Options{Source: "proc", Dir: full, Compress: image.LevelNone, Stop: true},
			fault.StoreFull,
		},
		{
			"full disk, killed", context.Background(),
			Options{Source: "proc", Dir: full, Compress: image.LevelNone, Kill: true},
			fault.StoreFull,
		},
		{
			"unwritable directory", context.Background(),
			Options{Source: "proc", Dir: fixed + "/store"},
			fault.StoreRights,
		},
		{
			"bad level", context.Background(),
			Options{Source: "proc", Dir: t.TempDir(), Compress: "much"},
			fault.StoreOption,
		},
		{"bad source", context.Background(), Options{Source: "guess", Dir: t.TempDir()}, fault.BadOption},
		{
			"stop and kill", context.Background(),
			Options{Source: "proc", Dir: t.TempDir(), Stop: true, Kill: true},
			fault.BadOption,
		},
		{
			"no time", context.Background(),
			Options{Source: "proc", Dir: t.TempDir(), MaxFreeze: time.Nanosecond},
			fault.MaxFreeze,
		},
		{"interrupted", cancelled, Options{Source: "proc", Dir: t.TempDir()}, fault.Interrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Snap(c.ctx, tg.pid(), c.o)
			t.Log(err)
			wantFault(t, err, c.want)
			unchanged(t, tg.pid(), before)
			emptyStore(t, c.o.Dir)
		})
	}
	tg.finish()
}

// TestInterruptAtEveryMoment cancels snapshots after ever longer times: whatever phase that hits, the target runs on.
func TestInterruptAtEveryMoment(t *testing.T) {
	tg := waiting(t)
	before := observe(t, tg.pid())
	store := filepath.Join(t.TempDir(), "store")
	interrupted, done := 0, 0
	for wait := time.Duration(0); done < 2 && wait < time.Minute; wait = wait*3/2 + 400*time.Microsecond {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		// most of the time is the snapshot's, not the loading of programs
		_, err := Snap(ctx, tg.pid(), Options{Dir: store, Source: "proc"})
		cancel()
		if err == nil {
			done++
		} else {
			interrupted++
			wantFault(t, err, fault.Interrupt)
		}
		if t.Failed() {
			return // every further round would wait in vain
		}
		unchanged(t, tg.pid(), before)
	}
	t.Logf("%d interrupted, %d done", interrupted, done)
	if interrupted == 0 || done == 0 {
		t.Error("not both outcomes were seen")
	}
	tg.finish()
}
