package bench

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/bench/subject"
)

// The tests use an engine that does no more than the measurement needs: its snapshot stops the process and stores its
// size, its restore starts another one.

func fakeSnap(_ context.Context, pid int, dir string, o SnapOptions) (SnapFigures, error) {
	start := time.Now()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return SnapFigures{}, err
	}
	n, _, err := readPass(pid)
	if err != nil {
		return SnapFigures{}, err
	}
	end := syscall.SIGCONT
	if o.Kill {
		end = syscall.SIGKILL
	}
	if err := syscall.Kill(pid, end); err != nil {
		return SnapFigures{}, err
	}
	freeze := time.Since(start)
	if o.Level == "fast" {
		n /= 2
	}
	return SnapFigures{
		Freeze: freeze, Wall: time.Since(start), Bytes: n,
		Phases: map[string]time.Duration{"memory": freeze},
	}, os.MkdirAll(dir, 0o700)
}

// fakeTracking saves a hundredth of what a full snapshot does.
func fakeTracking(context.Context, int) (Snapper, func(), error) {
	return func(ctx context.Context, pid int, dir string, o SnapOptions) (SnapFigures, error) {
		f, err := fakeSnap(ctx, pid, dir, o)
		f.Bytes /= 100
		return f, err
	}, func() {}, nil
}

func fakeRestore(ctx context.Context, dir string, _ bool) (Restored, error) {
	p, err := subject.Start(ctx, filepath.Join(filepath.Dir(dir), "subject"), subject.Memory(1<<20))
	if err != nil {
		return Restored{}, err
	}
	return Restored{Pid: p.Pid, Took: time.Millisecond, Kill: func() error { p.Kill(); return nil }}, nil
}

// tiny makes every workload small enough for a test.
var tiny = Sizes{Memory: 4 << 20, Mappings: 20, Descriptors: 10, Threads: 5}

func runPlan(t *testing.T, p *Plan, err error) *Report {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Done()
	rep, err := Runner{Rounds: 2}.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	for _, write := range []func(io.Writer) error{rep.WriteTable, rep.WriteHTML, rep.WriteJSON} {
		if err := write(io.Discard); err != nil {
			t.Error(err)
		}
	}
	return rep
}

func find(t *testing.T, rep *Report, kase, variant, metric string) Row {
	t.Helper()
	for _, row := range rep.rows() {
		if row.Case == kase && row.Variant == variant && row.Metric.Name == metric {
			return row
		}
	}
	t.Fatalf("no row %s, %s, %s", kase, variant, metric)
	return Row{}
}

func TestSnapPlan(t *testing.T) {
	p, err := SnapPlan(t.Context(), fakeSnap, fakeTracking, Options{Sizes: tiny, Dir: t.TempDir()})
	rep := runPlan(t, p, err)
	if len(rep.Experiments) != len(WorkloadKeys())-1 {
		t.Errorf("%d experiments", len(rep.Experiments))
	}
	bare := find(t, rep, "memory", "read + write", "written")
	if bare.Stats.Median < 4<<20 || bare.Stats.Median > 5<<20 {
		t.Errorf("the yardstick read %v bytes", bare.Stats.Median)
	}
	fast := find(t, rep, "memory", "bpfckpt, fast", "written")
	if fast.Target == nil || !fast.Target.Met || fast.Ratio != 0.5 {
		t.Errorf("fast: %+v", fast)
	}
	if f := find(t, rep, "threads", "bpfckpt, fast", "freeze"); f.Target == nil || f.Target.Max != 20 ||
		f.Stats.N != 2 {
		t.Errorf("threads: %+v", f)
	}
}

func TestRestorePlan(t *testing.T) {
	p, err := RestorePlan(t.Context(), fakeSnap, fakeRestore,
		Options{Sizes: tiny, Only: []string{"small", "memory", "lazy", "write"}, Dir: t.TempDir()})
	rep := runPlan(t, p, err)
	if len(rep.Experiments) != 3 {
		t.Errorf("%d experiments", len(rep.Experiments))
	}
	if m := find(t, rep, "memory", "bpfckpt", "restore"); m.Target == nil || m.Target.Of != OfRatio || m.Ratio == 0 {
		t.Errorf("memory: %+v", m)
	}
	if m := find(t, rep, "lazy", "bpfckpt", "restore"); m.Target == nil || m.Target.Max != 40 {
		t.Errorf("lazy: %+v", m)
	}
	if m := find(t, rep, "small", "bpfckpt", "restore"); m.Target == nil || m.Target.Max != 15 {
		t.Errorf("small: %+v", m)
	}
}

func TestPlanLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	p, err := SnapPlan(t.Context(), fakeSnap, fakeTracking, Options{Sizes: tiny, Only: []string{"small"}, Dir: dir})
	runPlan(t, p, err)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestUnknownWorkload(t *testing.T) {
	if _, err := SnapPlan(t.Context(), fakeSnap, fakeTracking, Options{Only: []string{"nonsense"}}); err == nil ||
		!strings.Contains(err.Error(), "threads") {
		t.Errorf("got %v", err)
	}
}

func TestReadPassReadsEveryMapping(t *testing.T) {
	st, err := newStage(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := subject.Start(t.Context(), st.program, subject.Mappings(3000)) // more than one call's worth
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	n, _, err := readPass(p.Pid)
	if err != nil || n < 3000*4096 || n > 3100*4096 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestCopyPass(t *testing.T) {
	if d, err := copyPass(9 << 20); err != nil || d <= 0 {
		t.Errorf("%v, %v", d, err)
	}
}

func TestCriuStatistics(t *testing.T) {
	// freezing 1500 us, frozen 4400 us, a field of another kind between
	dump := []byte{0x08, 0xdc, 0x0b, 0x1a, 2, 'h', 'i', 0x10, 0xb0, 0x22}
	msg := append([]byte{0x0a, byte(len(dump))}, dump...)
	file := filepath.Join(t.TempDir(), "stats-dump")
	if err := os.WriteFile(file, append(bytes.Repeat([]byte{0xee}, 12), msg...), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := criuFrozen(file); err != nil || d != 4400*time.Microsecond {
		t.Errorf("%v, %v", d, err)
	}
	if err := os.WriteFile(file, append(bytes.Repeat([]byte{0xee}, 12), msg[:9]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := criuFrozen(file); err == nil {
		t.Error("a torn file was read")
	}
}
