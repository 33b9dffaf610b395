// Package bench measures: it runs experiments and reports medians with their spread, beside yardsticks measured in the
// same run.
//
// An Experiment is a question ("how long does a snapshot of 1 GiB freeze its process?"), its Variants are what is
// compared: the tool, the yardstick (the least work that could do the job, done by the benchmark itself), and other
// tools found on this machine. All variants run once per round, each round in another order, so that a slow minute of
// the machine falls on all of them alike; the first round warms up and is not counted. A variant records any number of
// values, each under a case ("open+close") and a metric ("time").
//
// The package knows nothing of snapshots: what is measured comes in as functions (Snapper, Restorer, Watcher), so it
// stays below the engines it measures. Package subject has the processes they are measured on.
package bench

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Role says what a variant is there for.
type Role string

// The roles.
const (
	Measured  Role = "measured"  // ourselves
	Yardstick Role = "yardstick" // what the measured are divided by
	Other     Role = "other"     // another tool; that it fails is a finding, not an error
)

// Plan is what one benchmark consists of. Done must be called after the run, or instead of it.
type Plan struct {
	Title       string
	Experiments []Experiment
	Notes       []string // what the reader of the report must know
	Done        func()
}

// Experiment is a set of variants run against each other.
type Experiment struct {
	Name string
	// what it is about, a sentence, for the reader of the report
	Note string
	// before the first round; done runs after the last. May be nil.
	Setup    func(ctx context.Context) (done func(), err error)
	Variants []Variant
	Targets  []Target
	Rounds   int      // 0 means what the Runner says
	Times    int      // so many rounds for each of the Runner's; 0 means 1
	Once     []string // names of variants so slow, and so far from the others, that one counted round is enough
}

// Variant is one of the things compared.
type Variant struct {
	Name string
	Role Role
	Run  func(ctx context.Context, r *Recorder) error
}

// Metric is a kind of value.
type Metric struct {
	Name string `json:"name"`
	Unit string `json:"unit"` // "ns", "us", "ms", "s", "bytes", or "" for a bare number
	// Detail keeps a metric out of tables and plots; only JSON has it.
	Detail bool `json:"detail,omitempty"`
}

// Target is a limit that a median should keep.
type Target struct {
	Case, Variant, Metric string // an empty Case or Variant means every one; only rows with the role Measured are meant
	Of                    Measure
	Max                   float64
	Per                   float64 // OfExtra: how many calls the difference is shared by; 0 means 1
	// OfExtra: exceeded only by a difference that is more, in every round or nearly, than the yardstick's own spread
	Noise bool
}

// Measure is what a target limits.
type Measure string

// What a target can limit.
const (
	OfValue Measure = "value" // the median
	OfRatio Measure = "ratio" // the median quotient by the yardstick in the same round
	OfExtra Measure = "extra" // the median difference from the yardstick in the same round
)

// Runner runs experiments.
type Runner struct {
	Rounds   int                                      // counted rounds; 0 means 5
	Progress func(experiment string, done, total int) // after each variant's run; may be nil
}

// defaultRounds gives a median and quartiles that mean something.
const defaultRounds = 5

// Run runs the plan's experiments one after the other. The first error of a variant that is not Other ends everything.
func (r Runner) Run(ctx context.Context, p *Plan) (*Report, error) {
	rep := newReport(p.Title)
	rep.Notes = p.Notes
	for i := range p.Experiments {
		res, err := r.experiment(ctx, &p.Experiments[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Experiments[i].Name, err)
		}
		rep.Experiments = append(rep.Experiments, res)
	}
	rep.finish()
	return rep, nil
}

func (r Runner) experiment(ctx context.Context, e *Experiment) (ExperimentResult, error) {
	rounds := e.Rounds
	if rounds == 0 {
		rounds = r.Rounds
	}
	if rounds == 0 {
		rounds = defaultRounds
	}
	if e.Rounds == 0 {
		rounds *= max(e.Times, 1)
	}
	if e.Setup != nil {
		done, err := e.Setup(ctx)
		if err != nil {
			return ExperimentResult{}, fmt.Errorf("prepare: %w", err)
		}
		defer done()
	}
	rec := &Recorder{}
	failed := map[string]error{}
	total := (rounds + 1) * len(e.Variants)
	for round := range rounds + 1 {
		rec.warmup = round == 0
		for i := range e.Variants {
			v := &e.Variants[(i+round)%len(e.Variants)]
			if err := ctx.Err(); err != nil {
				return ExperimentResult{}, err
			}
			if failed[v.Name] == nil && (round == 1 || !slices.Contains(e.Once, v.Name)) {
				if err := rec.run(ctx, v); err != nil {
					failed[v.Name] = err
				}
			}
			if err := failed[v.Name]; err != nil && v.Role != Other {
				return ExperimentResult{}, fmt.Errorf("variant %s: %w", v.Name, err)
			}
			if r.Progress != nil {
				r.Progress(e.Name, round*len(e.Variants)+i+1, total)
			}
		}
	}
	return rec.result(e, rounds, failed), nil
}

// Recorder takes the values of one experiment.
type Recorder struct {
	warmup  bool
	variant *Variant
	series  []*series
}

// series is the values of one variant, case and metric, in the order they came.
type series struct {
	variant *Variant
	kase    string
	metric  Metric
	samples []float64
}

func (r *Recorder) run(ctx context.Context, v *Variant) (err error) {
	r.variant = v
	defer func() { r.variant = nil }()
	return v.Run(ctx, r)
}

// Warmup reports whether this round's values will not be counted; a variant can then do less.
func (r *Recorder) Warmup() bool { return r.warmup }

// Record takes a value. It must be called from the variant's Run only.
func (r *Recorder) Record(kase string, m Metric, value float64) {
	if r.warmup {
		return
	}
	for _, s := range r.series {
		if s.variant == r.variant && s.kase == kase && s.metric == m {
			s.samples = append(s.samples, value)
			return
		}
	}
	r.series = append(r.series, &series{variant: r.variant, kase: kase, metric: m, samples: []float64{value}})
}

// Time records a duration in the metric's unit, which must be "ns", "us", "ms" or "s".
func (r *Recorder) Time(kase string, m Metric, d time.Duration) {
	units := map[string]time.Duration{"ns": 1, "us": time.Microsecond, "ms": time.Millisecond, "s": time.Second}
	r.Record(kase, m, float64(d)/float64(units[m.Unit]))
}
