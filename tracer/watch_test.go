package tracer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watchTarget watches a target for the rest of the test.
func watchTarget(t testing.TB, tg *target, opts WatchOptions) *Watcher {
	t.Helper()
	began := time.Now()
	w, err := Watch(t.Context(), tg.pid, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("watching by %s after %v", w.stats.Method, time.Since(began))
	t.Cleanup(func() {
		began := time.Now()
		w.Close()
		t.Logf("closed in %v", time.Since(began))
	})
	return w
}

// guest is whether this is an emulated machine of the kernel matrix, twenty times slower than others.
func guest() bool { return os.Getenv("BPFCKPT_GUEST") != "" }

// scale is a number of rounds, less in a guest.
func scale(n int) int {
	if guest() {
		return max(n/4, 1)
	}
	return n
}

// rings are the sizes of ring buffer to test with: one that holds everything, and one that loses most.
func rings() []int {
	if guest() {
		return []int{4096}
	}
	return []int{0, 4096}
}

// churnCalls is how many calls the random workload makes; BPFCKPT_CHURN sets another number.
func churnCalls(t testing.TB) int {
	t.Helper()
	if text := os.Getenv("BPFCKPT_CHURN"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return scale(20000)
}

// churn runs the random workload under a watch and returns when it is through.
func churn(t testing.TB, seed, calls, threads int, opts WatchOptions) (*target, *Watcher) {
	t.Helper()
	tg := start(t, "churn", strconv.Itoa(seed), strconv.Itoa(calls), strconv.Itoa(threads))
	w := watchTarget(t, tg, opts)
	tg.release(t)
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(tg.dir, "done")); err == nil {
			return tg, w
		}
		if time.Since(began) > 5*time.Minute {
			t.Fatal("the workload does not end")
		}
	}
}

// TestChurn runs random workloads of several threads and holds the table against the kernel: no field differs.
func TestChurn(t *testing.T) {
	for seed := 1; seed <= scale(3); seed++ {
		for _, ring := range rings() {
			t.Run(fmt.Sprintf("seed %d ring %d", seed, ring), func(t *testing.T) {
				_, w := churn(t, seed, churnCalls(t), 4, WatchOptions{RingBytes: ring})
				checkDrift(t, w)
				s, err := w.Stats(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%+v", s)
				if ring != 0 && s.Lost == 0 {
					t.Error("no record was lost, though the ring was small")
				}
				if ring == 0 && s.Lost != 0 {
					t.Errorf("%d records were lost", s.Lost)
				}
			})
		}
	}
}

func checkDrift(t *testing.T, w *Watcher) {
	t.Helper()
	diffs, err := w.Compare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range diffs {
		if i == 10 {
			t.Errorf("and %d more", len(diffs)-i)
			break
		}
		t.Error(d)
	}
}

// recorder collects events; get may be called at any time.
type recorder struct {
	mu   sync.Mutex
	list []Event
}

func (r *recorder) on(e *Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, *e)
}

// has reports whether an event was seen.
func (r *recorder) has(match func(e *Event) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.list, func(e Event) bool { return match(&e) })
}

// release lets a test program go on after READY.
func (tg *target) release(t testing.TB) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(tg.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for began := time.Now(); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%s: not in ten seconds", what)
		}
	}
}

// TestEvents watches a program that makes one call of each kind, and an execve, and looks for what is told of each.
func TestEvents(t *testing.T) {
	tg := start(t, "calls")
	var r recorder
	w := watchTarget(t, tg, WatchOptions{OnEvent: r.on})
	s, err := w.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tg.release(t)
	<-w.Done()
	file := filepath.Join(tg.dir, "file")
	for _, want := range []struct {
		what  string
		match func(e *Event) bool
	}{
		{"mmap", func(e *Event) bool { return e.Kind == "mmap" && e.Len == 12345 && e.Prot == "rw-p" }},
		{"mmap of a file", func(e *Event) bool { return e.Kind == "mmap" && e.Len == 54321 && e.Prot == "r--s" && e.Path == file }},
		{"munmap", func(e *Event) bool { return e.Kind == "munmap" && e.Len == 12345 }},
		{"mprotect", func(e *Event) bool { return e.Kind == "mprotect" && e.Prot == "r--" && e.Len == 4096 }},
		{"mremap", func(e *Event) bool { return e.Kind == "mremap" && e.Len == 40960 && e.OldLen == 8192 }},
		{"madvise", func(e *Event) bool { return e.Kind == "madvise" && e.Advice == unix.MADV_DONTFORK }},
		{"open", func(e *Event) bool { return e.Kind == "openat" && e.Path == "./link" && e.Opened == file }},
		{"close", func(e *Event) bool { return e.Kind == "close" && e.FD != nil }},
		{"dup", func(e *Event) bool {
			return e.Kind == "dup2" && e.FD != nil && *e.FD == 77 && e.From != nil && e.Opened == file
		}},
		{"pipe", func(e *Event) bool { return e.Kind == "pipe2" && e.Cloexec }},
		{"sigaction", func(e *Event) bool { return e.Kind == "rt_sigaction" && e.Signal == int(unix.SIGUSR1) && e.Addr > 1 }},
		{"sigaltstack", func(e *Event) bool { return e.Kind == "sigaltstack" }},
		{"setrlimit", func(e *Event) bool { return e.Kind == "prlimit64" && e.Limit == "core" && e.Cur == 4321 }},
		{"chdir", func(e *Event) bool { return e.Kind == "chdir" && e.Path == "/tmp" && e.Opened == "/tmp" }},
		{"umask", func(e *Event) bool { return e.Kind == "umask" }},
		{"prctl", func(e *Event) bool { return e.Kind == "prctl" && e.Args[0] == unix.PR_SET_NAME }},
		{"inotify", func(e *Event) bool { return e.Kind == "inotify_add_watch" && e.Path == "/etc" }},
		{"dlopen", func(e *Event) bool { return e.Kind == "dlopen" && e.Path == "libm.so.6" }},
		{"dlclose", func(e *Event) bool { return e.Kind == "dlclose" && filepath.Base(e.Path) == "libm.so.6" }},
		{"thread", func(e *Event) bool { return e.Kind == "thread" }},
		{"fork", func(e *Event) bool { return e.Kind == "fork" && e.Pid == tg.pid }},
		{"a call of the child", func(e *Event) bool { return e.Kind == "openat" && e.Pid != tg.pid && e.Path == "/dev/null" }},
		{"execve", func(e *Event) bool { return e.Kind == "exec" && e.Pid != tg.pid && e.Comm == "true" }},
		{"end of the child", func(e *Event) bool { return e.Kind == "exit" && e.Pid != tg.pid && e.Status == "exit 0" }},
		{"end of the program", func(e *Event) bool { return e.Kind == "exit" && e.Pid == tg.pid && e.Status == "exit 3" }},
	} {
		if strings.HasPrefix(want.what, "dl") && s.DL == 0 && guest() {
			continue // programs of the kernel matrix have no C library to probe
		}
		if !r.has(want.match) {
			t.Errorf("no event: %s", want.what)
		}
	}
	if t.Failed() {
		for _, e := range r.list {
			t.Log(e.String())
		}
	}
	if status, ok := w.Exit(); !ok || status.ExitStatus() != 3 {
		t.Errorf("exit %v %v", status, ok)
	}
}
