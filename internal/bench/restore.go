package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/bench/subject"
)

// Restorer brings the head of a store back as a child of ours and returns once it runs, with lazy perhaps before its
// memory is there.
type Restorer func(ctx context.Context, dir string, lazy bool) (Restored, error)

// Restored is a restored process.
type Restored struct {
	Pid    int           // in our pid namespace
	Took   time.Duration // as the restore itself says
	Phases map[string]time.Duration
	Kill   func() error // ends the process, waits until its pid is free
}

// RestorePlan is the benchmark of restores: the time until the process runs again, of the standard workloads, beside
// UFFDIO_COPY of the same memory where that matters, and beside starting the program afresh. Every restored process
// must then find all it held.
func RestorePlan(ctx context.Context, snap Snapper, restore Restorer, o Options) (*Plan, error) {
	loads, err := workloads(o.Sizes, o.Only)
	if err != nil {
		return nil, err
	}
	st, err := newStage(o.Dir)
	if err != nil {
		return nil, err
	}
	p := &Plan{Title: "Restores", Done: st.remove}
	criu := p.findCriu(ctx)
	if o.Level == "" {
		o.Level = "none"
	}
	for _, w := range loads {
		if w.key != "write" && w.key != incremental && w.key != storm { // are "memory" again
			p.Experiments = append(p.Experiments, restoreExperiment(snap, restore, st, w, o.Level, criu))
		}
	}
	return p, nil
}

func restoreExperiment(snap Snapper, restore Restorer, st *stage, w workload, level, criu string) Experiment {
	store := filepath.Join(st.dir, "store-"+w.key)
	e := Experiment{
		Name: "restore: " + w.title,
		Note: "The time until the process runs again, from an image in the page cache (compression " + level +
			"). Afterwards it checks all it held.",
		Setup: func(ctx context.Context) (func(), error) {
			p, err := subject.Start(ctx, st.program, w.args(st.dir))
			if err != nil {
				return nil, err
			}
			defer p.Kill()
			_, err = snap(ctx, p.Pid, store, SnapOptions{Level: level, Kill: true})
			return func() {}, err
		},
		Variants: []Variant{{
			"bpfckpt", Measured,
			func(ctx context.Context, r *Recorder) error { return restoreOnce(ctx, r, restore, store, w) },
		}},
	}
	if w.lazy {
		e.Note += " Its pages come as it touches them, and in the background."
	}
	fresh := Variant{
		"start afresh", Yardstick,
		func(ctx context.Context, r *Recorder) error { return startOnce(ctx, r, st, w) },
	}
	if w.bytes > 0 {
		e.Variants = append(e.Variants, Variant{"UFFDIO_COPY", Yardstick, func(_ context.Context, r *Recorder) error {
			d, err := copyPass(w.bytes)
			r.Time(w.key, restoreMetric, d)
			return err
		}})
		fresh.Role = Other
		e.Targets = []Target{{Metric: "restore", Of: OfRatio, Max: 1.3}}
	}
	e.Variants = append(e.Variants, fresh)
	if w.restore > 0 {
		e.Targets = append(e.Targets, Target{Metric: "restore", Max: w.restore})
	}
	if criu != "" {
		c := &criuRestorer{criu: criu, st: st, load: w}
		e.Variants = append(e.Variants, Variant{"criu", Other, c.run})
	}
	return e
}

func restoreOnce(ctx context.Context, r *Recorder, restore Restorer, store string, w workload) (err error) {
	kase := w.key
	start := time.Now()
	got, err := restore(ctx, store, w.lazy)
	took := time.Since(start)
	if err != nil {
		return err
	}
	defer func() {
		if kerr := got.Kill(); err == nil {
			err = kerr
		}
	}()
	r.Time(kase, restoreMetric, took)
	r.Time(kase, Metric{Name: "restore_us", Unit: "ms", Detail: true}, got.Took)
	for name, d := range got.Phases {
		r.Time(kase, Metric{Name: "phase " + name, Unit: "ms", Detail: true}, d)
	}
	if err := subject.Check(ctx, got.Pid); err != nil {
		return fmt.Errorf("after the restore: %w", err)
	}
	return nil
}

func startOnce(ctx context.Context, r *Recorder, st *stage, w workload) error {
	start := time.Now()
	p, err := subject.Start(ctx, st.program, w.args(st.dir))
	if err != nil {
		return err
	}
	r.Time(w.key, restoreMetric, time.Since(start))
	p.Kill()
	return nil
}
