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

	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
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

const (
	largeRing = 256 << 20 // holds everything, however busy the machine is
	smallRing = 4096      // loses most
)

// churnSteps is how many steps the random workload makes, of 1.3 recorded calls each; BPFCKPT_CHURN sets another
// number.
func churnSteps(t testing.TB) int {
	t.Helper()
	if text := os.Getenv("BPFCKPT_CHURN"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if testing.Short() || guest() {
		return scale(20000)
	}
	return 800000
}

// churn runs the random workload under a watch and returns when it is through.
func churn(t testing.TB, seed, calls, threads int, opts WatchOptions) (*target, *Watcher) {
	t.Helper()
	tg := start(t, "churn", strconv.Itoa(seed), strconv.Itoa(calls), strconv.Itoa(threads))
	w := watchTarget(t, tg, opts)
	tg.release(t)
	tg.awaitDone(t)
	return tg, w
}

// awaitDone waits until a test program says that it is through.
func (tg *target) awaitDone(t testing.TB) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(tg.dir, "done")); err == nil {
			return
		}
		if time.Since(began) > 5*time.Minute {
			t.Fatal("the workload does not end")
		}
	}
}

// runUnread has a program do its work while nobody reads the ring, and then brings the table up to it.
func runUnread(t *testing.T, tg *target, w *Watcher) {
	t.Helper()
	asleep, wake, synced := make(chan bool), make(chan bool), make(chan error)
	go func() {
		synced <- w.do(t.Context(), func() {
			asleep <- true
			<-wake
			w.sync()
		})
	}()
	<-asleep
	tg.release(t)
	tg.awaitDone(t)
	wake <- true
	if err := <-synced; err != nil {
		t.Fatal(err)
	}
}

// TestLostEnds loses the ends of children whose births are in the ring: none of them stays in the table.
func TestLostEnds(t *testing.T) {
	tg := start(t, "forks", "20")
	w := watchTarget(t, tg, WatchOptions{RingBytes: smallRing})
	runUnread(t, tg, w)
	checkDrift(t, tg.pid, w)
	s, err := w.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Lost == 0 || s.Groups != 1 {
		t.Errorf("%d records lost, %d processes in the table instead of 1", s.Lost, s.Groups)
	}
}

// TestLostFlags loses that a child changed the flags of a description it shares with its parent, and then closed its
// descriptor: nothing of the parent's own was lost, and yet its descriptor is another.
func TestLostFlags(t *testing.T) {
	tg := start(t, "flags")
	w := watchTarget(t, tg, WatchOptions{RingBytes: smallRing})
	runUnread(t, tg, w)
	checkDrift(t, tg.pid, w)
	if s, err := w.Stats(t.Context()); err != nil || s.Lost == 0 || s.Groups != 2 {
		t.Errorf("%d records lost, %d processes instead of 2; %v", s.Lost, s.Groups, err)
	}
}

// TestChurn runs random workloads of many threads and forks, or of one thread and forks, a million state-changing calls
// each, and holds the table against an iterator pass and /proc: no field differs, neither when every call is told of
// nor when most records are lost, however the order of changes of mappings is found out.
func TestChurn(t *testing.T) {
	for _, c := range []struct {
		seed, threads int
		partly        bool
		seqs          seqSource
	}{
		{seed: 1, threads: 16, partly: true},
		{seed: 2, threads: 0},
		{seed: 3, threads: 16, seqs: ownSeq},
		{seed: 4, threads: 2},
		{seed: 5, threads: 16, seqs: probedSeq},
	} {
		if c.seed > scale(5) {
			continue
		}
		for _, ring := range []int{largeRing, smallRing} {
			t.Run(fmt.Sprintf("seed %d threads %d ring %d", c.seed, c.threads, ring), func(t *testing.T) {
				opts := WatchOptions{RingBytes: ring, partly: c.partly, seqs: c.seqs}
				testChurn(t, c.seed, c.threads, opts)
			})
		}
	}
}

func testChurn(t *testing.T, seed, threads int, opts WatchOptions) {
	var told recorder
	steps := churnSteps(t)
	opts.OnEvent = func(e *Event) {
		if e.Kind == "lost" {
			told.on(e)
		}
	}
	tg, w := churn(t, seed, steps, threads, opts)
	checkDrift(t, tg.pid, w)
	s, err := w.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v, lock probed %v", s, w.probes.lockAttached)
	checkLosses(t, s, &told, opts.RingBytes)
	if n := s.Events + s.Lost; n < uint64(steps)+uint64(steps)/4 {
		t.Errorf("%d steps made only %d records", steps, n)
	}
	if s.Threads < max(threads, 1) || s.Groups < 3 && !guest() {
		t.Errorf("%d threads in %d processes at the end", s.Threads, s.Groups)
	}
	if want := threads > 0 || !w.probes.kernelSeq; w.probes.lockAttached != want && s.Lost == 0 {
		t.Errorf("the lock is probed: %v, with %d threads", w.probes.lockAttached, threads)
	}
	checkTreeAgainstProc(t, tg.pid, w)
}

// checkLosses checks that losses come with a small ring only, and are told of.
func checkLosses(t *testing.T, s Stats, told *recorder, ring int) {
	t.Helper()
	sum := uint64(0)
	for _, e := range told.list {
		sum += e.Count
	}
	if (s.Lost > 0) != (ring == smallRing) || sum != s.Lost {
		t.Errorf("%d records were lost and %d of them told of, with a ring of %d bytes", s.Lost, sum, ring)
	}
}

// checkTreeAgainstProc collects the whole tree with the watch, and holds every process against the files of /proc.
func checkTreeAgainstProc(t *testing.T, root int, w *Watcher) {
	t.Helper()
	tr := ptrace.New()
	defer tr.Close()
	pids := descendants(root)
	g, err := tr.Freeze(t.Context(), pids, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.Thaw() }()
	all, err := w.Source().Collect(t.Context(), pids, g)
	if err != nil {
		t.Fatal(err)
	}
	if all.Drift != 0 || len(all.Processes) != len(pids) {
		t.Errorf("%d processes instead of %d, drift %d", len(all.Processes), len(pids), all.Drift)
	}
	for i := range all.Processes {
		p := &all.Processes[i]
		for j := range all.Files {
			all.Files[j].Opened = nil // which /proc does not tell
		}
		checkMaps(t, p)
		checkFDs(t, p, all.Files)
		checkStatus(t, p)
		checkSmall(t, p)
		checkHandlers(t, p)
	}
}

// checkHandlers compares which signals are caught and ignored with status.
func checkHandlers(t *testing.T, p *model.Process) {
	t.Helper()
	status, err := procfs.Pid(p.Pid).Status()
	if err != nil {
		t.Fatal(err)
	}
	var caught, ignored uint64
	for _, a := range p.Actions {
		switch a.Handler {
		case 0: // SIG_DFL
		case 1: // SIG_IGN
			ignored |= 1 << (a.Signal - 1)
		default:
			caught |= 1 << (a.Signal - 1)
		}
	}
	if caught != status.SigCgt || ignored != status.SigIgn {
		t.Errorf("pid %d: caught %x ignored %x, status says %x and %x", p.Pid, caught, ignored, status.SigCgt,
			status.SigIgn)
	}
}

// checkDrift compares the table with the kernel while the tree stands still: what a program does after it says that it
// is done is its own affair.
func checkDrift(t *testing.T, root int, w *Watcher) {
	t.Helper()
	tr := ptrace.New()
	defer tr.Close()
	g, err := tr.Freeze(t.Context(), descendants(root), 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.Thaw() }()
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

// TestEveryTurn makes many changes of one mapping: every one is told of, whatever the kernel passes to the probe of the
// lock.
func TestEveryTurn(t *testing.T) {
	const changes = 500
	tg := start(t, "protect", strconv.Itoa(changes))
	var r recorder
	w := watchTarget(t, tg, WatchOptions{OnEvent: r.on})
	tg.release(t)
	tg.awaitDone(t)
	checkDrift(t, tg.pid, w)
	told := 0
	for _, e := range r.list {
		if e.Kind == "mprotect" {
			told++
		}
	}
	if told != changes {
		t.Errorf("%d of %d changes were told of", told, changes)
	}
}

// seqSources are all of them.
var seqSources = map[string]seqSource{"best": bestSeq, "probed": probedSeq, "own": ownSeq}

// TestGrowingStack runs a program whose stack grows before calls that do not take the lock: the write sequence of the
// one is not taken for that of the other.
func TestGrowingStack(t *testing.T) {
	for name, seqs := range seqSources {
		t.Run(name, func(t *testing.T) {
			tg := start(t, "grow", "500")
			w := watchTarget(t, tg, WatchOptions{seqs: seqs})
			tg.release(t)
			tg.awaitDone(t)
			checkDrift(t, tg.pid, w)
		})
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
		if time.Since(began) > time.Minute {
			t.Fatalf("%s: not in a minute", what)
		}
	}
}

// methods are the ways to see system calls, as WatchOptions has them: as the kernel best allows, and by functions
// wherever they can be had.
var methods = map[string]bool{"best": false, "functions": true}

// TestEvents watches a program that makes one call of each kind, and an execve, and looks for what is told of each.
func TestEvents(t *testing.T) {
	for name, partly := range methods {
		t.Run(name, func(t *testing.T) { testEvents(t, partly) })
	}
}

func testEvents(t *testing.T, partly bool) {
	tg := start(t, "calls")
	var r recorder
	w := watchTarget(t, tg, WatchOptions{OnEvent: r.on, partly: partly})
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
		{"mmap of a file", func(e *Event) bool {
			return e.Kind == "mmap" && e.Len == 54321 && e.Prot == "r--s" &&
				e.Path == file
		}},
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
		{"sigaction", func(e *Event) bool {
			return e.Kind == "rt_sigaction" && e.Signal == int(unix.SIGUSR1) &&
				e.Addr > 1
		}},
		{"sigaltstack", func(e *Event) bool { return e.Kind == "sigaltstack" }},
		{"setrlimit", func(e *Event) bool { return e.Kind == "prlimit64" && e.Limit == "core" && e.Cur == 4321 }},
		{"chdir", func(e *Event) bool { return e.Kind == "chdir" && e.Path == "/tmp" && e.Opened == "/tmp" }},
		{"umask", func(e *Event) bool { return e.Kind == "umask" }},
		{"prctl", func(e *Event) bool { return e.Kind == "prctl" && e.Args[0] == unix.PR_SET_NAME }},
		{"eventfd", func(e *Event) bool { return e.Kind == "eventfd2" && e.FD != nil }},
		{"epoll", func(e *Event) bool { return e.Kind == "epoll_create1" && e.FD != nil }},
		{"signalfd", func(e *Event) bool { return e.Kind == "signalfd4" && e.FD != nil }},
		{"timerfd", func(e *Event) bool { return e.Kind == "timerfd_create" && e.FD != nil }},
		{"memfd", func(e *Event) bool { return e.Kind == "memfd_create" && e.Path == "calls" }},
		{"socket", func(e *Event) bool { return e.Kind == "socket" && e.FD != nil }},
		{"mlock", func(e *Event) bool { return e.Kind == "mlock" }},
		{"inotify", func(e *Event) bool { return e.Kind == "inotify_add_watch" && e.Path == "/etc" }},
		{"dlopen", func(e *Event) bool { return e.Kind == "dlopen" && e.Path == "libm.so.6" }},
		{"dlclose", func(e *Event) bool { return e.Kind == "dlclose" && filepath.Base(e.Path) == "libm.so.6" }},
		{"thread", func(e *Event) bool { return e.Kind == "thread" }},
		{"fork", func(e *Event) bool { return e.Kind == "fork" && e.Pid == tg.pid }},
		{"a call of the child", func(e *Event) bool {
			return e.Kind == "openat" && e.Pid != tg.pid &&
				e.Path == "/dev/null"
		}},
		{"execve", func(e *Event) bool { return e.Kind == "exec" && e.Pid != tg.pid && e.Comm == "true" }},
		{"end of the child", func(e *Event) bool {
			return e.Kind == "exit" && e.Pid != tg.pid &&
				e.Status == "exit 0"
		}},
		{"end of the program", func(e *Event) bool {
			return e.Kind == "exit" && e.Pid == tg.pid &&
				e.Status == "exit 3"
		}},
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
