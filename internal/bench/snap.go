package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/bench/subject"
)

// Snapper takes a full snapshot of a process into the new store dir, at a compression level, and lets it run on, or kills it.
type Snapper func(ctx context.Context, pid int, dir, level string, kill bool) (SnapFigures, error)

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
)

// SnapPlan is the benchmark of snapshots: freeze, wall time and bytes of the standard workloads, beside one read of the same memory
// and one durable write of as many bytes.
func SnapPlan(ctx context.Context, snap Snapper, o Options) (*Plan, error) {
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
		if w.lazy { // is "memory" again
			continue
		}
		p.Experiments = append(p.Experiments, snapExperiment(snap, st, w, criu))
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
		{"read + write", Yardstick, func(_ context.Context, r *Recorder) error { return bareSnap(r, st.dir, w.key, pid()) }},
		{"bpfckpt, uncompressed", Measured, func(ctx context.Context, r *Recorder) error { return snapOnce(ctx, r, snap, st, w.key, pid(), "none") }},
		{"bpfckpt, fast", Measured, func(ctx context.Context, r *Recorder) error { return snapOnce(ctx, r, snap, st, w.key, pid(), "fast") }},
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
			Target{Variant: "bpfckpt, fast", Metric: "written", Of: OfRatio, Max: 0.6})
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

func snapOnce(ctx context.Context, r *Recorder, snap Snapper, st *stage, kase string, pid int, level string) error {
	store := filepath.Join(st.dir, "store")
	defer os.RemoveAll(store)
	f, err := snap(ctx, pid, store, level, false)
	if err != nil {
		return err
	}
	r.Time(kase, freezeMetric, f.Freeze)
	r.Time(kase, wallMetric, f.Wall)
	r.Record(kase, writtenMetric, float64(f.Bytes))
	for name, d := range f.Phases {
		r.Time(kase, Metric{Name: "phase " + name, Unit: "ms", Detail: true}, d)
	}
	if err := subject.Check(ctx, pid); err != nil {
		return fmt.Errorf("after the snapshot: %w", err)
	}
	return nil
}
