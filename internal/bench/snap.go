package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/bench/subject"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// Snapper takes a snapshot of a process into the store dir, which it makes if it is not there.
type Snapper func(ctx context.Context, pid int, dir string, o SnapOptions) (SnapFigures, error)

// SnapOptions say how a snapshot is to be taken.
type SnapOptions struct {
	Level     string        // of compression
	Kill      bool          // the process; else it runs on
	MaxFreeze time.Duration // 0: none
}

// Tracking begins to track what a process writes, as a watch does, and returns a Snapper of it whose images hold what
// was written since the one before. done ends it.
type Tracking func(ctx context.Context, pid int) (snap Snapper, done func(), err error)

// SnapFigures is what a snapshot says of itself.
type SnapFigures struct {
	Freeze time.Duration
	Wall   time.Duration
	Bytes  int64 // written
	Phases map[string]time.Duration
}

// Options are common to the benchmarks of snapshots and restores.
type Options struct {
	Sizes Sizes
	Only  []string // workload keys, all if empty
	Dir   string   // where images and yardsticks are written, "" for the system's temporary directory
	Level string   // compression of the main variant, "none" if empty
}

// Metrics of snapshots and restores.
var (
	freezeMetric  = Metric{Name: "freeze", Unit: "ms"}
	wallMetric    = Metric{Name: "wall", Unit: "ms"}
	writtenMetric = Metric{Name: "written", Unit: "bytes"}
	restoreMetric = Metric{Name: "restore", Unit: "ms"}

	residentMetric = Metric{Name: "resident", Unit: "bytes"} // the most memory this process had meanwhile
)

// residentTarget is how much memory the tool may use, whatever the target's size, bytes.
const residentTarget = 150 << 20

// largestFreeze is the bound that the workload "storm" is saved under.
const largestFreeze = 50 * time.Millisecond

// SnapPlan is the benchmark of snapshots: freeze, wall time and bytes of the standard workloads, beside one read of the
// same memory and one durable write of as many bytes.
func SnapPlan(ctx context.Context, snap Snapper, track Tracking, o Options) (*Plan, error) {
	loads, err := workloads(o.Sizes, o.Only)
	if err != nil {
		return nil, err
	}
	st, err := newStage(o.Dir)
	if err != nil {
		return nil, err
	}
	p := &Plan{Title: "Snapshots", Done: st.remove}
	criu := p.findCriu(ctx)
	for _, w := range loads {
		switch {
		case w.lazy: // is "memory" again
		case w.key == incremental:
			p.Experiments = append(p.Experiments, incrementalExperiment(snap, track, st, w, o.Sizes.withDefaults()))
		case w.key == storm:
			p.Experiments = append(p.Experiments, stormExperiment(snap, st, w))
		default:
			p.Experiments = append(p.Experiments, snapExperiment(snap, st, w, criu))
		}
	}
	return p, nil
}

func snapExperiment(snap Snapper, st *stage, w workload, criu string) Experiment {
	var p *subject.Process
	e := Experiment{
		Name: "snapshot: " + w.title,
		Note: "A full snapshot; the process runs on. The yardstick reads its private memory once and writes as many bytes to a file, synced.",
		Setup: func(ctx context.Context) (func(), error) {
			var err error
			if p, err = subject.Start(ctx, st.program, w.args(st.dir)); err != nil {
				return nil, err
			}
			return p.Kill, nil
		},
	}
	pid := func() int { return p.Pid }
	e.Variants = []Variant{
		{"read + write", Yardstick, func(_ context.Context,
			r *Recorder,
		) error {
			return bareSnap(r, st.dir, w.key, pid())
		}},
		{"bpfckpt, uncompressed", Measured, func(ctx context.Context, r *Recorder) error {
			return snapOnce(ctx, r, snap, st, w.key, pid(), SnapOptions{Level: "none"})
		}},
		{"bpfckpt, fast", Measured, func(ctx context.Context, r *Recorder) error {
			return snapOnce(ctx, r, snap, st, w.key, pid(), SnapOptions{Level: "fast"})
		}},
	}
	if criu != "" {
		e.Variants = append(e.Variants, Variant{"criu", Other, func(ctx context.Context, r *Recorder) error {
			return criuSnap(ctx, r, criu, st, w.key, pid())
		}})
	}
	if w.freeze > 0 {
		e.Targets = append(e.Targets, Target{Metric: "freeze", Max: w.freeze})
	}
	if w.key == "memory" {
		e.Targets = append(e.Targets,
			Target{Variant: "bpfckpt, uncompressed", Metric: "wall", Of: OfRatio, Max: 1.5},
			Target{Variant: "bpfckpt, fast", Metric: "written", Of: OfRatio, Max: 0.6},
			Target{Metric: "resident", Max: residentTarget})
	}
	return e
}

func bareSnap(r *Recorder, dir, kase string, pid int) error {
	n, read, err := readPass(pid)
	if err != nil {
		return err
	}
	write, err := writePass(dir, n)
	if err != nil {
		return err
	}
	r.Time(kase, wallMetric, read+write)
	r.Record(kase, writtenMetric, float64(n))
	r.Time(kase, Metric{Name: "read", Unit: "ms", Detail: true}, read)
	r.Time(kase, Metric{Name: "write", Unit: "ms", Detail: true}, write)
	return nil
}

// incrementalExperiment has two processes that write: of one full snapshots are taken, of the other incremental ones,
// each after a hundredth of its memory has been written.
func incrementalExperiment(snap Snapper, track Tracking, st *stage, w workload, s Sizes) Experiment {
	var full, tracked *subject.Process
	var next Snapper
	store := filepath.Join(st.dir, "store-incremental")
	e := Experiment{
		Name: "snapshot: " + w.title,
		Note: "An incremental snapshot after a hundredth of the memory was written, beside full ones of another such process.",
	}
	e.Setup = func(ctx context.Context) (func(), error) {
		var undo []func()
		done := func() {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
		for _, p := range []**subject.Process{&full, &tracked} {
			var err error
			if *p, err = subject.Start(ctx, st.program, w.args(st.dir)); err != nil {
				done()
				return nil, err
			}
			undo = append(undo, (*p).Kill)
		}
		var end func()
		var err error
		if next, end, err = track(ctx, tracked.Pid); err == nil {
			undo = append(undo, end)
			_, err = next(ctx, tracked.Pid, store, SnapOptions{Level: "none"})
		}
		if err != nil {
			done()
			return nil, err
		}
		return done, nil
	}
	share := time.Duration(float64(s.Memory/pageSize) / 100 / float64(s.WriteRate) * float64(time.Second))
	e.Variants = []Variant{
		{"full", Yardstick, func(ctx context.Context, r *Recorder) error {
			return snapOnce(ctx, r, snap, st, w.key, full.Pid, SnapOptions{Level: "none"})
		}},
		{"incremental", Measured, func(ctx context.Context, r *Recorder) error {
			if err := sleep(ctx, share); err != nil {
				return err
			}
			return snapInto(ctx, r, next, store, w.key, tracked.Pid, SnapOptions{Level: "none"})
		}},
	}
	e.Targets = []Target{
		{Metric: "freeze", Max: w.freeze},
		{Metric: "wall", Of: OfRatio, Max: 0.05},
		{Metric: "written", Of: OfRatio, Max: 0.05},
		{Metric: "resident", Max: residentTarget},
	}
	return e
}

// stormExperiment saves a process that rewrites much of its memory all the time, under a bound for the freeze.
func stormExperiment(snap Snapper, st *stage, w workload) Experiment {
	bounded := func(ctx context.Context, pid int, dir string, o SnapOptions) (SnapFigures, error) {
		o.MaxFreeze = largestFreeze
		return snap(ctx, pid, dir, o)
	}
	e := snapExperiment(bounded, st, w, "")
	e.Note = fmt.Sprintf("A full snapshot that may freeze the process for %v at most. %s", largestFreeze, e.Note)
	return e
}

// sleep waits.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// snapOnce takes a snapshot into a new store.
func snapOnce(ctx context.Context, r *Recorder, snap Snapper, st *stage, kase string, pid int, o SnapOptions) error {
	store := filepath.Join(st.dir, "store")
	defer os.RemoveAll(store)
	return snapInto(ctx, r, snap, store, kase, pid, o)
}

func snapInto(ctx context.Context, r *Recorder, snap Snapper, store, kase string, pid int, o SnapOptions) error {
	resetPeak()
	f, err := snap(ctx, pid, store, o)
	if err != nil {
		return err
	}
	r.Time(kase, freezeMetric, f.Freeze)
	r.Time(kase, wallMetric, f.Wall)
	r.Record(kase, writtenMetric, float64(f.Bytes))
	if peak, err := peakMemory(); err == nil {
		r.Record(kase, residentMetric, float64(peak))
	}
	for name, d := range f.Phases {
		r.Time(kase, Metric{Name: "phase " + name, Unit: "ms", Detail: true}, d)
	}
	if err := subject.Check(ctx, pid); err != nil {
		return fmt.Errorf("after the snapshot: %w", err)
	}
	return nil
}

// resetPeak makes the most memory we had what we have now (proc_pid_clear_refs(5), Linux 4.0). What the collector could
// give back is given back first.
func resetPeak() {
	debug.FreeOSMemory()
	// else the peak is one of before: too much, never too little
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

// peakMemory is the most memory we had, bytes.
func peakMemory() (int64, error) {
	st, err := procfs.Pid(os.Getpid()).Status()
	return int64(st.VmHWM) << 10, err
}
