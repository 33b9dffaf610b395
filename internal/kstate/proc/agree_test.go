package proc

import (
	"bufio"
	"context"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/tracer"
)

// targets are programs whose state both sources must see alike. Each prints a line when it is ready.
var targets = []struct {
	name string
	argv func(t *testing.T) []string
}{
	{"much", func(t *testing.T) []string { return []string{compile(t, "testdata/much.c"), t.TempDir()} }},
	{"python", func(*testing.T) []string {
		return []string{
			"python3", "-c",
			"import threading,time,sys\nfor i in range(4): threading.Thread(target=time.sleep,args=(1000,),daemon=True).start()\nprint('ready',flush=True)\nsys.stdin.read()",
		}
	}},
	{"perl", func(*testing.T) []string {
		return []string{"perl", "-e", `$|=1; $SIG{INT}=sub{}; alarm 1000; print "ready\n"; sleep 1000`}
	}},
	{"go", func(*testing.T) []string { return []string{os.Args[0]} }},
}

// TestMain makes this binary the Go program among the targets.
func TestMain(m *testing.M) {
	if os.Getenv(goTargetEnv) != "" {
		for range 20 {
			go func() { time.Sleep(time.Hour) }()
		}
		os.Stdout.WriteString("ready\n")
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

const goTargetEnv = "PROC_TEST_TARGET"

func compile(t testing.TB, source string) string {
	t.Helper()
	built := strings.TrimSuffix(source, ".c") // a machine without a compiler has it built already
	if _, err := os.Stat(built); err == nil {
		return built
	}
	bin := filepath.Join(t.TempDir(), filepath.Base(built))
	if out, err := exec.Command("gcc", "-O1", "-pthread", "-o", bin, source).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return bin
}

// start runs a program and returns its pid when it is ready.
func start(t testing.TB, argv []string) int {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), goTargetEnv+"=1")
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pid := range tree(t, cmd.Process.Pid) {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%v: %q, %v", argv, line, err)
	}
	time.Sleep(30 * time.Millisecond) // until its threads sleep
	return cmd.Process.Pid
}

// tree lists a process and its children.
func tree(t testing.TB, pid int) []int {
	t.Helper()
	pids := []int{pid}
	tids, err := procfs.Pid(pid).Tasks()
	if err != nil {
		return pids
	}
	for _, tid := range tids {
		children, err := procfs.Task(pid, tid).Children()
		if err != nil {
			return pids
		}
		pids = append(pids, children...)
	}
	return pids
}

func TestAgreesWithIter(t *testing.T) {
	iter, err := tracer.NewIter()
	if err != nil {
		t.Fatalf("the sources can only be compared where iterators work: %v", err)
	}
	defer iter.Close()
	for _, target := range targets {
		t.Run(target.name, func(t *testing.T) {
			argv := target.argv(t)
			if _, err := exec.LookPath(argv[0]); err != nil && os.Getenv("BPFCKPT_GUEST") != "" {
				t.Skipf("the guest has no %s", argv[0]) // the host has
			}
			pid := start(t, argv)
			for range 3 { // from the second on, sleeping threads are in a restarted system call
				compare(t, iter, pid)
			}
		})
	}
}

func compare(t *testing.T, iter kstate.Source, pid int) {
	t.Helper()
	src, err := New()
	if err != nil {
		t.Fatal(err)
	}
	tr := ptrace.New()
	defer tr.Close()
	pids := tree(t, pid)
	var live []int
	for _, p := range pids {
		if st, err := procfs.Pid(p).Stat(); err == nil && st.State != 'Z' {
			live = append(live, p)
		}
	}
	g, err := tr.Freeze(context.Background(), live, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Thaw(); err != nil {
			t.Error(err)
		}
	}()
	began := time.Now()
	want, err := iter.Collect(context.Background(), pids, g)
	if err != nil {
		t.Fatal(err)
	}
	got, err := src.Collect(context.Background(), pids, g)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d threads, %d mappings, %d descriptors: %v", len(g.Threads()), len(got.Processes[0].VMAs),
		len(got.Processes[0].FDs), time.Since(began))
	if !src.host.membarriers { // then the registration for the global command is assumed
		for i := range want.Processes {
			want.Processes[i].MM.Membarrier |= membarrierRegisterGlobal
		}
	}
	took := time.Since(began) + 20*time.Millisecond
	sameTimeLeft(t, want, got, took)
	if d := cmp.Diff(want, got, tolerant(took)...); d != "" {
		t.Errorf("iter (-) and proc (+) differ:\n%s", d)
	}
}

// sameTimeLeft checks and evens out the time left of interrupted calls. What the proc source estimates is never below
// the truth. What the kernel wrote for a sleeper is exact, but as of the last time the sleep was interrupted: one that
// had no time to go on since the previous freeze has that time.
func sameTimeLeft(t *testing.T, want, got *kstate.Collected, by time.Duration) {
	t.Helper()
	for i := range min(len(want.Processes), len(got.Processes)) {
		theirs := want.Processes[i].Threads
		for j := range theirs {
			mine := findThread(&got.Processes[i], theirs[j].Tid)
			if mine == nil || mine.Restart == nil || theirs[j].Restart == nil {
				continue // cmp tells
			}
			a, b := theirs[j].Restart, mine.Restart
			if ahead := time.Duration(b.Left - a.Left); ahead < -by || b.Exact && b.Kind != "nanosleep" && ahead > by {
				t.Errorf("thread %d: iter says %d ns left, proc says %d (exact: %v)", mine.Tid, a.Left, b.Left, b.Exact)
			}
			b.Left, b.Exact = a.Left, a.Exact
		}
	}
}

// tolerant lists what may differ: times that went on for as long as the two took, and a time left that the proc source
// cannot know.
func tolerant(took time.Duration) []cmp.Option {
	by := float64(took)
	near := func(name string) cmp.Option {
		return cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == "."+name },
			cmp.Comparer(func(a, b int64) bool {
				return math.Abs(float64(a-b)) <= by && (a == 0) == (b == 0)
			}))
	}
	usage := cmp.Comparer(func(a, b model.Usage) bool {
		close64 := func(x, y int64, by float64) bool { return math.Abs(float64(x-y)) <= by }
		count := func(x, y uint64) bool { return close64(int64(x), int64(y), 2000) }
		return close64(a.UTime, b.UTime, by) && close64(a.STime, b.STime, by) && close64(a.Wall, b.Wall, by) &&
			count(a.MinFlt, b.MinFlt) &&
			count(a.MajFlt, b.MajFlt) && a.InBlock == b.InBlock && a.OuBlock == b.OuBlock && count(a.NVCSw, b.NVCSw) &&
			count(a.NIvCSw, b.NIvCSw) &&
			close64(int64(a.MaxRSS), int64(b.MaxRSS), 8<<20)
	})
	return []cmp.Option{
		usage, near("Left"), near("Value"), cmpopts.IgnoreFields(model.File{}, "Unlocked", "Expiry"),
		cmpopts.EquateEmpty(),
		cmp.Comparer(func(a, b *fault.Error) bool { return a.Error() == b.Error() }),
	}
}

// BenchmarkCollect measures the source on stopped processes with many of one thing.
func BenchmarkCollect(b *testing.B) {
	for _, c := range []struct{ name, threads, maps, fds string }{
		{"small", "0", "0", "0"},
		{"threads=200", "200", "0", "0"},
		{"maps=10000", "0", "10000", "0"},
		{"fds=1000", "0", "0", "1000"},
	} {
		b.Run(c.name, func(b *testing.B) {
			pid := start(b, []string{compile(b, "testdata/many.c"), c.threads, c.maps, c.fds})
			src, err := New()
			if err != nil {
				b.Fatal(err)
			}
			tr := ptrace.New()
			defer tr.Close()
			g, err := tr.Freeze(context.Background(), []int{pid}, 5*time.Second)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := src.Collect(context.Background(), []int{pid}, g); err != nil {
					b.Fatal(err)
				}
			}
			if err := g.Thaw(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
