package main

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/agent"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/bench"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/job"
	"github.com/bpfckpt/bpfckpt/restore"
	"github.com/bpfckpt/bpfckpt/snapshot"
	"github.com/bpfckpt/bpfckpt/tracer"
)

// benchKinds are the benchmarks by name.
var benchKinds = map[string]func(c *call, o bench.Options) (*bench.Plan, error){
	"overhead": func(c *call, o bench.Options) (*bench.Plan, error) {
		return bench.OverheadPlan(c.ctx, benchWatch,
			bench.OverheadOptions{Dir: o.Dir, Command: c.args[1:], Only: o.Only, Nothing: benchNothing})
	},
	"snap": func(c *call, o bench.Options) (*bench.Plan, error) {
		return bench.SnapPlan(c.ctx, benchSnap, benchTracking, o)
	},
	"restore": func(c *call, o bench.Options) (*bench.Plan, error) {
		return bench.RestorePlan(c.ctx, benchSnap, benchRestore, o)
	},
}

func benchVerb() *verb {
	return &verb{
		name: "bench", operands: "KIND [-- CMD...]", min: 1, max: -1,
		short: "measure watches, snapshots or restores on this machine, beside yardsticks",
		long: "KIND overhead measures what a watch costs: every system call it records and some it does not, bare, with a watch on another\n" +
			"process and with one on this, under strace and under an LD_PRELOAD interposer where those are to be had; then whole programs, or\n" +
			"CMD.\n\n" +
			"KIND snap or restore measures that on processes made for it: a small one, one with much memory, one that also writes it, one with\n" +
			"many mappings, many descriptors, many threads. Beside each stands a yardstick, the least work that could do the job, measured in\n" +
			"the same rounds. Shown are medians with their spread, and the targets the project has set itself. Other tools found here run too.",
		flags: []cli.Flag{
			&cli.IntFlag{Name: "rounds", Value: 5, Usage: "measure everything `N` times, after a round that is not counted (default: 5)"},
			&cli.StringFlag{Name: "size", Value: "1GiB", Usage: "memory of the large process: `BYTES`, with KiB, MiB or GiB (default: 1GiB)"},
			&cli.IntFlag{Name: "mappings", Usage: "mappings of the process with many: `N` (default: 10000)"},
			&cli.IntFlag{Name: "descriptors", Usage: "descriptors of the process with many: `N` (default: 1000)"},
			&cli.IntFlag{Name: "threads", Usage: "threads of the process with many: `N` (default: 200)"},
			&cli.StringFlag{Name: "only", Usage: "only these processes: `LIST`, of " + strings.Join(bench.WorkloadKeys(), ",") + " (default: all); of overhead, only these calls and programs"},
			choice("compress", "of the images that are restored: `LEVEL`", "none", "fast", "default", "best"),
			&cli.StringFlag{Name: "dir", Usage: "write images and yardsticks below `DIR`, removed at the end (default: the system's temporary directory)"},
			&cli.StringFlag{Name: "html", Usage: "also write a report with plots to `FILE`"},
			&cli.BoolFlag{Name: "strict", Usage: "fail if a target is missed"},
		},
		examples: []example{
			{"bpfckpt bench overhead --html overhead.html", "what a watch costs, with plots"},
			{"bpfckpt bench overhead -- make -C src", "what it costs a program of yours"},
			{"bpfckpt bench snap", "how long processes stand still, and how long a snapshot takes"},
			{"bpfckpt bench restore --only small,threads", "how soon two of them run again"},
			{"bpfckpt bench snap --size 64MiB --rounds 3 --html snap.html", "a short run, with plots"},
		},
		exits: []fault.Class{fault.Failed, fault.KernelLacks, fault.Interrupted},
		run:   runBench,
	}
}

func runBench(c *call) error {
	plan, ok := benchKinds[c.args[0]]
	if !ok {
		return usageError(c.verb, c.args[0], "not a benchmark; there are overhead, snap and restore")
	}
	if len(c.args) > 1 && c.args[0] != "overhead" {
		return usageError(c.verb, c.args[1], "only overhead takes a command")
	}
	o, err := benchOptions(c)
	if err != nil {
		return err
	}
	p, err := plan(c, o)
	if err != nil {
		return benchError(err)
	}
	defer p.Done()
	progress, finish := c.benchBar()
	rep, err := bench.Runner{Rounds: c.cli.Int("rounds"), Progress: progress}.Run(c.ctx, p)
	finish()
	if err != nil {
		return benchError(err)
	}
	bench.Conclude(rep)
	rep.Version = version()
	if err := c.showReport(rep); err != nil {
		return err
	}
	if missed := rep.Missed(); len(missed) > 0 && c.cli.Bool("strict") {
		return fault.New(fault.BenchTarget, "", "%s", strings.Join(missed, "; "))
	}
	return nil
}

func benchOptions(c *call) (bench.Options, error) {
	o := bench.Options{
		Sizes: bench.Sizes{
			Mappings: c.cli.Int("mappings"), Descriptors: c.cli.Int("descriptors"),
			Threads: c.cli.Int("threads"),
		},
		Dir: c.cli.String("dir"), Level: c.cli.String("compress"),
	}
	for _, name := range []string{"rounds", "mappings", "descriptors", "threads"} {
		if c.cli.IsSet(name) && c.cli.Int(name) <= 0 {
			return o, usageError(c.verb, "--"+name, "%d is too few", c.cli.Int(name))
		}
	}
	var err error
	if o.Sizes.Memory, err = parseBytes(c.cli.String("size")); err != nil {
		return o, usageError(c.verb, "--size", "%s is not a size such as 64MiB or 1GiB", c.cli.String("size"))
	}
	if only := c.cli.String("only"); only != "" {
		o.Only = strings.Split(only, ",")
	}
	return o, nil
}

// benchWatch watches a process as the watch verb does.
func benchWatch(ctx context.Context, pid int) (stop func() error, err error) {
	w, err := tracer.Watch(ctx, pid, tracer.WatchOptions{})
	if err != nil {
		return nil, err
	}
	return w.Close, nil
}

// benchNothing puts a probe that does nothing where a watch sees system calls by tracepoint.
func benchNothing() (stop func() error, err error) {
	p, err := tracer.AttachNothing()
	if err != nil {
		return nil, err
	}
	return p.Close, nil
}

var errSize = errors.New("not a size of at least a page")

// parseBytes reads a number of bytes with an optional binary unit. It must make at least a page.
func parseBytes(text string) (int64, error) {
	shift := 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			text, shift = number, 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, err
	}
	if n <= 0 || n > 1<<40>>shift || n<<shift < 4096 {
		return 0, errSize
	}
	return n << shift &^ 4095, nil
}

// benchError makes a fault of what went wrong, unless there is one in it already.
func benchError(err error) error {
	var f *fault.Error
	var l fault.List
	switch {
	case errors.Is(err, bench.ErrNoWorkload), errors.Is(err, bench.ErrUnknownName):
		return usageError(nil, "--only", "%w", err)
	case errors.As(err, &f), errors.As(err, &l), errors.Is(err, context.Canceled):
		return err
	}
	return fault.New(fault.Bench, "", "%w", err)
}

// showReport prints the report and writes the HTML file if one is asked for.
func (c *call) showReport(rep *bench.Report) error {
	if name := c.cli.String("html"); name != "" {
		if err := writeHTML(rep, name); err != nil {
			return fault.New(fault.Output, name, "%w", err)
		}
	}
	if c.json {
		return c.object(rep)
	}
	return outputError(rep.WriteTable(c.out))
}

func writeHTML(rep *bench.Report, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := rep.WriteHTML(f); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// benchBar returns a progress function for the runner, which shows which experiment it is at, and a function that
// removes it.
func (u *ui) benchBar() (progress func(experiment string, done, total int), finish func()) {
	if !u.tty || u.json {
		return nil, func() {}
	}
	var bar *progressbar.ProgressBar
	var at string
	progress = func(experiment string, done, total int) {
		if experiment != at {
			at = experiment
			bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(u.err),
				progressbar.OptionSetDescription(experiment),
				progressbar.OptionSetWidth(20), progressbar.OptionClearOnFinish(),
				progressbar.OptionSetPredictTime(false))
		}
		_ = bar.Set(done) // a bar that cannot be drawn is no reason to stop
	}
	finish = func() {
		if bar != nil {
			_ = bar.Clear()
		}
	}
	return progress, finish
}

// benchSnap is the bench.Snapper of this command: what `snap` does.
func benchSnap(ctx context.Context, pid int, dir string, o bench.SnapOptions) (bench.SnapFigures, error) {
	return snapFigures(snapshot.Snap(ctx, pid, benchOptionsOf(dir, o)))
}

func benchOptionsOf(dir string, o bench.SnapOptions) snapshot.Options {
	return snapshot.Options{
		Dir: dir, Compress: image.Level(o.Level), Kill: o.Kill, MaxFreeze: o.MaxFreeze,
		Precopy: true,
	}
}

// benchTracking is the bench.Tracking of this command: what `snap --incremental` has a watch do.
func benchTracking(ctx context.Context, pid int) (snap bench.Snapper, done func(), err error) {
	w, err := tracer.Watch(ctx, pid, tracer.WatchOptions{})
	if err != nil {
		return nil, nil, err
	}
	s := agent.NewSnapper(pid, agent.SnapperOptions{Live: func() kstate.Source { return w.Source() }})
	snap = func(ctx context.Context, _ int, dir string, o bench.SnapOptions) (bench.SnapFigures, error) {
		so := benchOptionsOf(dir, o)
		so.Incremental = true
		return snapFigures(s.Snap(ctx, so))
	}
	return snap, func() { s.Close(); _ = w.Close() }, nil
}

func snapFigures(res *snapshot.Result, err error) (bench.SnapFigures, error) {
	if err != nil {
		return bench.SnapFigures{}, err
	}
	p := &res.Phases
	return bench.SnapFigures{
		Freeze: micros(res.FreezeUS), Wall: micros(res.WallUS), Bytes: res.BytesWritten,
		Phases: map[string]time.Duration{
			"prepare": micros(p.Prepare), "attach": micros(p.Attach), "precopy": micros(p.Precopy),
			"freeze": micros(p.Freeze), "regs": micros(p.Regs),
			"state": micros(p.State), "fds": micros(p.FDs), "memory": micros(p.Memory), "thaw": micros(p.Thaw),
			"encode":  micros(p.Encode),
			"publish": micros(p.Publish),
		},
	}, nil
}

// benchRestore is the bench.Restorer of this command.
func benchRestore(ctx context.Context, dir string, lazily bool) (bench.Restored, error) {
	o := restore.Options{Std: job.OwnStreams()}
	if lazily {
		var err error
		if o.Lazy, err = startLazy(dir, false); err != nil {
			return bench.Restored{}, err
		}
	}
	r, err := image.Open(dir)
	if err != nil {
		if o.Lazy != nil {
			o.Lazy.Abort()
		}
		return bench.Restored{}, err
	}
	defer r.Close()
	got, err := job.Restore(ctx, r, o)
	if err != nil {
		return bench.Restored{}, err
	}
	phases := map[string]time.Duration{}
	for name, us := range got.Phases {
		phases[name] = micros(us)
	}
	return bench.Restored{
		Pid: got.Root, Took: micros(got.RestoreUS), Phases: phases,
		Kill: func() error { got.Abandon(); return nil },
	}, nil
}

func micros(us int64) time.Duration { return time.Duration(us) * time.Microsecond }
