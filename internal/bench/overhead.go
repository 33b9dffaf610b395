package bench

import (
	"context"
	_ "embed" // the interposer
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/bench/subject"
)

// Watcher begins a watch on a process and everything it starts, and returns once every probe is attached. stop ends the
// watch and returns once every probe is gone.
type Watcher func(ctx context.Context, pid int) (stop func() error, err error)

// OverheadOptions say what the overhead benchmark runs.
type OverheadOptions struct {
	// for programs and their files, "" for the system's temporary directory
	Dir     string
	Command []string      // a program to slow down, instead of the built-in list
	Only    []string      // names of calls and programs, all if empty
	Sample  time.Duration // how long one measurement of one call takes, 0 means 4 ms
	// puts a program that does nothing where a watch sees system calls; nil: that is not measured
	Nothing func() (stop func() error, err error)
}

// Targets of the watch.
const (
	recordedMaxNS   = 300  // more for a recorded system call
	unwatchedMaxNS  = 80   // more for any system call of a process that nobody watches, while a watch runs elsewhere
	programMaxRatio = 1.01 // of a whole program
	dearerInterpose = 10   // the interposer should cost at least so many times the watch on open+close
)

// Names of the variants.
const (
	bare       = "bare"
	watchGone  = "after a watch on it"
	doNothing  = "a probe that does nothing"
	watchOther = "watch on another process"
	watchIt    = "watch on it"
	underTrace = "strace"
	interposed = "LD_PRELOAD interposer"
)

//go:embed interpose/interpose.c
var interposeSource []byte

var roundMetric = Metric{Name: "round", Unit: "ns"}

// overhead is what the experiments of one run share.
type overhead struct {
	*Plan
	opts  OverheadOptions
	watch Watcher
	st    *stage
	tools struct {
		strace, interposer, calls, dynamic, python string // paths; "" if there is none
	}
}

// OverheadPlan is the benchmark of what a watch costs: each traced system call and some untraced ones, made bare by a
// static program, with a watch on another process and with a watch on it; the same through the C library and an
// interposer; and whole programs.
func OverheadPlan(ctx context.Context, watch Watcher, o OverheadOptions) (*Plan, error) {
	if o.Sample == 0 {
		o.Sample = 4 * time.Millisecond
	}
	if err := knownNames(o.Only); err != nil {
		return nil, err
	}
	st, err := newStage(o.Dir)
	if err != nil {
		return nil, err
	}
	h := &overhead{Plan: &Plan{Title: "Overhead of a watch", Done: st.remove}, opts: o, watch: watch, st: st}
	if err := h.findTools(ctx); err != nil {
		st.remove()
		return nil, err
	}
	if len(o.Command) == 0 && len(h.calls()) > 0 {
		h.Experiments = append(h.Experiments, h.rawCalls())
		if h.tools.interposer != "" {
			h.Experiments = append(h.Experiments, h.libraryCalls())
		}
	}
	if list := h.installed(ctx); len(list) > 0 {
		h.Experiments = append(h.Experiments, h.programs(list))
	}
	return h.Plan, nil
}

// ErrUnknownName means that a name is neither among subject.Calls nor that of a program.
var ErrUnknownName = errors.New("no such call or program")

func knownNames(names []string) error {
	known := callNames()
	for _, p := range programList {
		known = append(known, p.name)
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return fmt.Errorf("%w: %q; there are %s", ErrUnknownName, n, strings.Join(known, ", "))
		}
	}
	return nil
}

// wanted reports whether a call or program is to be measured.
func (h *overhead) wanted(name string) bool {
	return len(h.opts.Only) == 0 || slices.Contains(h.opts.Only, name)
}

func callNames() (names []string) {
	for _, c := range subject.Calls() {
		names = append(names, c.Name)
	}
	return names
}

// findTools looks for strace and builds what gcc is needed for; what is missing is left out with a note.
func (h *overhead) findTools(ctx context.Context) (err error) {
	if h.tools.calls, err = subject.InstallCalls(h.st.dir); err != nil {
		return err
	}
	if h.tools.strace, err = exec.LookPath("strace"); err != nil {
		h.Notes = append(h.Notes, "left out: strace, which is not installed")
	}
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		h.Notes = append(h.Notes, "left out: the LD_PRELOAD interposer and the calls through the C library, which need gcc")
		return nil
	}
	source, err := subject.InstallCallsSource(h.st.dir)
	if err != nil {
		return err
	}
	interpose := filepath.Join(h.st.dir, "interpose.c")
	if err := os.WriteFile(interpose, interposeSource, 0o600); err != nil {
		return err
	}
	h.tools.dynamic, h.tools.interposer = filepath.Join(h.st.dir, "calls-libc"), filepath.Join(h.st.dir, "interpose.so")
	for _, args := range [][]string{
		{"-O2", "-o", h.tools.dynamic, source},
		{"-O2", "-shared", "-fPIC", "-o", h.tools.interposer, interpose, "-ldl"},
	} {
		if out, err := exec.CommandContext(ctx, gcc, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("build the yardstick: %w\n%s", err, out)
		}
	}
	return nil
}

func (h *overhead) calls() []subject.Call {
	return slices.DeleteFunc(subject.Calls(), func(c subject.Call) bool { return !h.wanted(c.Name) })
}

// rawCalls is the experiment on system calls made without a library between.
func (h *overhead) rawCalls() Experiment {
	var plain, traced *subject.Caller
	var idle *subject.Process
	e := Experiment{
		Name: callsName,
		Note: "Nanoseconds for one round of bare system calls, by the program's own clock, the best of three measurements in each round.",
	}
	e.Setup = func(ctx context.Context) (func(), error) {
		var stop cleanups
		var err error
		if plain, err = startCalls(&stop, exec.Command(h.tools.calls)); err != nil {
			return nil, err
		}
		if h.tools.strace != "" {
			if traced, err = startCalls(&stop,
				exec.Command(h.tools.strace, "-f", "-qq", "-o", "/dev/null", h.tools.calls)); err != nil {
				stop.run()
				return nil, err
			}
		}
		if idle, err = subject.Start(ctx, h.st.program, subject.Memory(small)); err != nil {
			stop.run()
			return nil, err
		}
		stop.add(idle.Kill)
		return stop.run, nil
	}
	e.Variants = []Variant{
		{bare, Yardstick, h.measure(&plain, nil)},
		{watchGone, Measured, h.measure(&plain, h.gone(func() int { return plain.Pid }))},
		{watchOther, Measured, h.measure(&plain, h.on(func() int { return idle.Pid }))},
		{watchIt, Measured, h.measure(&plain, h.on(func() int { return plain.Pid }))},
	}
	if h.opts.Nothing != nil {
		nothing := func(context.Context) (func() error, error) { return h.opts.Nothing() }
		e.Variants = append(e.Variants, Variant{doNothing, Other, h.measure(&plain, nothing)})
	}
	if h.tools.strace != "" {
		e.Variants = append(e.Variants, Variant{underTrace, Other, h.measure(&traced, nil)})
	}
	for _, c := range h.calls() {
		if c.Recorded > 0 && !c.Heavy {
			e.Targets = append(e.Targets,
				Target{
					Case: c.Name, Variant: watchIt, Metric: roundMetric.Name, Of: OfExtra, Max: recordedMaxNS,
					Per: float64(c.Recorded),
				})
		}
		if !c.Heavy {
			e.Targets = append(e.Targets,
				Target{
					Case: c.Name, Variant: watchOther, Metric: roundMetric.Name, Of: OfExtra, Max: unwatchedMaxNS,
					Per: float64(c.Made),
				})
			e.Targets = append(e.Targets,
				Target{Case: c.Name, Variant: watchGone, Metric: roundMetric.Name, Of: OfExtra, Noise: true})
		}
	}
	return e
}

// libraryCalls is the experiment on the same calls made through the C library, where an interposer can stand.
func (h *overhead) libraryCalls() Experiment {
	var plain, under *subject.Caller
	e := Experiment{
		Name: libraryName,
		Note: "The same rounds made by a dynamically linked program, and with an interposer that keeps what a watch keeps: the paths and flags of " +
			"opens, copies of descriptors, mappings, handlers, masks, limits, the working directory.",
	}
	e.Setup = func(context.Context) (func(), error) {
		var stop cleanups
		var err error
		if plain, err = startCalls(&stop, exec.Command(h.tools.dynamic)); err != nil {
			return nil, err
		}
		preload := exec.Command(h.tools.dynamic)
		preload.Env = append(os.Environ(), "LD_PRELOAD="+h.tools.interposer)
		if under, err = startCalls(&stop, preload); err != nil {
			stop.run()
			return nil, err
		}
		return stop.run, nil
	}
	e.Variants = []Variant{
		{bare, Yardstick, h.measure(&plain, nil)},
		{watchIt, Measured, h.measure(&plain, h.on(func() int { return plain.Pid }))},
		{interposed, Other, h.measure(&under, nil)},
	}
	return e
}

func startCalls(stop *cleanups, cmd *exec.Cmd) (*subject.Caller, error) {
	c, err := subject.StartCalls(cmd)
	if err == nil {
		stop.add(c.Stop)
	}
	return c, err
}

// during is what a variant has going on while it measures: it begins it, and returns its end.
type during func(context.Context) (stop func() error, err error)

// on is a watch on a process.
func (h *overhead) on(target func() int) during {
	return func(ctx context.Context) (func() error, error) { return h.watch(ctx, target()) }
}

// gone is a watch that has ended.
func (h *overhead) gone(target func() int) during {
	return func(ctx context.Context) (func() error, error) {
		stop, err := h.watch(ctx, target())
		if err != nil {
			return nil, err
		}
		return func() error { return nil }, stop()
	}
}

// measure returns a variant's run: all calls by the given process.
func (h *overhead) measure(c **subject.Caller, meanwhile during) func(context.Context, *Recorder) error {
	counts := map[string]int{}
	return func(ctx context.Context, r *Recorder) (err error) {
		if meanwhile != nil {
			stop, err := meanwhile(ctx)
			if err != nil {
				return fmt.Errorf("watch: %w", err)
			}
			defer func() { err = errors.Join(err, stop()) }()
		}
		for _, call := range h.calls() {
			if err := ctx.Err(); err != nil {
				return err
			}
			if counts[call.Name] == 0 {
				if counts[call.Name], err = calibrate(*c, call.Name, h.opts.Sample); err != nil {
					return err
				}
			}
			ns, err := best(*c, call.Name, counts[call.Name])
			if err != nil {
				return err
			}
			r.Record(call.Name, roundMetric, ns)
		}
		return nil
	}
}

// calibrate finds how many rounds take about as long as a sample should.
func calibrate(c *subject.Caller, call string, sample time.Duration) (int, error) {
	const few = 20
	d, err := c.Measure(call, few)
	if err != nil {
		return 0, err
	}
	return int(max(few, few*sample/max(d, 1))), nil
}

// best measures three times and returns the least, ns for one round: what disturbs a measurement only ever adds.
func best(c *subject.Caller, call string, count int) (float64, error) {
	least := 0.0
	for i := range 3 {
		d, err := c.Measure(call, count)
		if err != nil {
			return 0, err
		}
		if ns := float64(d) / float64(count); i == 0 || ns < least {
			least = ns
		}
	}
	return least, nil
}

// cleanups run in reverse order.
type cleanups []func()

func (c *cleanups) add(f func()) { *c = append(*c, f) }

func (c *cleanups) run() {
	for _, f := range slices.Backward(*c) {
		f()
	}
}

const (
	callsName   = "system calls"
	libraryName = "calls through the C library"
)

// Conclude adds to the report of an overhead run what its figures say about this machine, and about the interposer.
func Conclude(rep *Report) {
	extra := func(experiment, kase, variant string) float64 {
		for _, e := range rep.Experiments {
			for _, row := range e.Rows {
				if e.Name == experiment && row.Case == kase && row.Variant == variant {
					return row.Extra
				}
			}
		}
		return 0
	}
	if floor := extra(callsName, "getppid", doNothing); floor > 0 {
		note := fmt.Sprintf("on this machine a probe that does nothing, where a watch sees system calls, adds %s to each call of every process", quantity(floor, "ns"))
		if floor > unwatchedMaxNS {
			note += fmt.Sprintf(": no watch can keep to %d here", unwatchedMaxNS)
		}
		rep.Notes = append(rep.Notes, note)
	}
	watch, interposer := extra(libraryName, "open+close", watchIt), extra(libraryName, "open+close", interposed)
	if watch <= 0 || interposer <= 0 {
		return // not measured, or lost in noise
	}
	verdict := "at least"
	if interposer/watch < dearerInterpose {
		verdict = "not"
	}
	rep.Notes = append(rep.Notes, fmt.Sprintf("the interposer adds %s to an open+close, the watch %s: %.1f times as much, %s the %d times it should be",
		quantity(interposer, "ns"), quantity(watch, "ns"), interposer/watch, verdict, dearerInterpose))
}
