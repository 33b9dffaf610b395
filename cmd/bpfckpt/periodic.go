package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/interval"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

// periodicFlags are the flags of verbs that take snapshots by themselves.
func periodicFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "every", Usage: "save it every `TIME`, such as 30s, or auto: as often as it pays"},
		&cli.DurationFlag{Name: "mtbf", Value: 24 * time.Hour, Usage: "for --every auto: how long it usually runs before something fails, `TIME` (default: 24h)"},
		&cli.IntFlag{Name: "keep", Usage: "keep only the newest `N` of the images without a name (default: all)"},
		choice("compress", "how hard memory is compressed: `LEVEL`", "default", "none", "fast", "best"),
		maxFreezeFlag(),
		excludeFlag(),
	}
}

// periodicOnly are those that make no sense without --every.
var periodicOnly = []string{"mtbf", "keep", "compress", "max-freeze", "exclude"}

func maxFreezeFlag() cli.Flag {
	return &cli.DurationFlag{Name: "max-freeze", Usage: "fail rather than let the process stand still for longer than `TIME`, such as 100ms (default: no limit)"}
}

func excludeFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "exclude", Usage: "leave memory out, by the `NAME` that /proc/PID/maps has for it, or dontdump for what the program marked so (madvise); may be repeated"}
}

// periodic takes snapshots of a tree by itself, one after the other.
type periodic struct {
	snapper *snapper
	opts    snapshot.Options
	keep    int           // images without a name that stay, 0 for all
	every   time.Duration // 0: as often as auto says
	auto    interval.Auto
	said    time.Duration // the interval that was explained last
	noted   []string      // notes that have been told
}

// outcome is one periodic snapshot.
type outcome struct {
	res *snapshot.Result // nil if it failed
	err error            // why it failed, or with res, why older images could not be removed
	why string           // explains a new interval, "" if it is as before

	notes []string // those of res that no snapshot before had
}

// periodic reads the flags; nil if --every is not given. The root of the tree and the directory may be set later.
func (c *call) periodic() (*periodic, error) {
	text := c.cli.String("every")
	if !c.cli.IsSet("every") {
		if i := slices.IndexFunc(periodicOnly, c.cli.IsSet); i >= 0 {
			return nil, usageError(c.verb, "--"+periodicOnly[i], "it is for periodic snapshots: --every is missing")
		}
		return nil, nil
	}
	p := &periodic{
		keep: c.cli.Int("keep"), auto: interval.Auto{MTBF: c.cli.Duration("mtbf"), CPUs: runtime.NumCPU()},
		opts: snapshot.Options{
			Incremental: true, Compress: image.Level(c.cli.String("compress")), MaxFreeze: c.cli.Duration("max-freeze"),
			Exclude: c.cli.StringSlice("exclude"),
		},
	}
	var err error
	if text != "auto" {
		if p.every, err = time.ParseDuration(text); err != nil || p.every <= 0 {
			return nil, usageError(c.verb, "--every", "%q is neither a duration such as 30s nor auto", text)
		}
	}
	switch {
	case c.cli.IsSet("mtbf") && text != "auto":
		return nil, usageError(c.verb, "--mtbf", "it is for --every auto")
	case p.auto.MTBF <= 0:
		return nil, usageError(c.verb, "--mtbf", "%s is no time to fail in", p.auto.MTBF)
	case c.cli.IsSet("keep") && p.keep <= 0:
		return nil, usageError(c.verb, "--keep", "%d images are too few: the newest one always stays", p.keep)
	case c.cli.IsSet("max-freeze") && p.opts.MaxFreeze <= 0:
		return nil, usageError(c.verb, "--max-freeze", "%s is no time to freeze a process in", p.opts.MaxFreeze)
	}
	return p, nil
}

// next is the time to the next snapshot.
func (p *periodic) next() time.Duration {
	if p.every > 0 {
		return p.every
	}
	return p.auto.Next()
}

// once takes one snapshot, removes what need not be kept, and learns what it cost.
func (p *periodic) once(ctx context.Context) outcome {
	before := cpuTime()
	res, err := p.snapper.snap(ctx, p.opts)
	if err != nil {
		return outcome{err: err}
	}
	o := outcome{res: res}
	for _, n := range res.Notes {
		if !slices.Contains(p.noted, n) {
			p.noted, o.notes = append(p.noted, n), append(o.notes, n)
		}
	}
	p.auto.Add(interval.Cost{Freeze: micros(res.FreezeUS), CPU: cpuTime() - before, Wall: micros(res.WallUS)})
	if p.every == 0 && differs(p.said, p.auto.Next()) {
		p.said, o.why = p.auto.Next(), p.auto.String()
	}
	if p.keep > 0 {
		_, o.err = image.Prune(res.Dir, image.PruneOptions{Keep: p.keep})
	}
	return o
}

// differs reports whether an interval has changed by more than a quarter.
func differs(was, is time.Duration) bool { return is > was*5/4 || is < was*4/5 }

// cpuTime is the processor time this process has used (getrusage(2)).
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0 // then the freeze alone counts as the cost
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// run takes snapshots until ctx ends, beginning with one at once, and tells of each.
func (p *periodic) run(ctx context.Context, tell func(outcome)) {
	for {
		o := p.once(ctx)
		if ctx.Err() != nil {
			return
		}
		tell(o)
		if gone(o.err, p.snapper.root) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(p.next()):
		}
	}
}

// lines are what a person is told about a periodic snapshot.
func (o outcome) lines() []string {
	var out []string
	if o.res != nil {
		out = append(out, snapText(o.res))
		out = append(out, o.notes...)
	}
	if o.err != nil {
		for _, e := range faultsOf(o.err) {
			out = append(out, e.Error())
		}
	}
	if o.why != "" {
		out = append(out, "the next ones "+o.why)
	}
	return out
}

// saves is what a watch tells about its periodic snapshots.
type saves struct {
	Dir     string `json:"dir"`
	Taken   uint64 `json:"taken"`
	Failed  uint64 `json:"failed"`
	Last    string `json:"last_id"`     // id of the newest image, "" before the first
	LastUS  int64  `json:"last_at_us"`  // when it was taken, since the watch began
	Freeze  int64  `json:"freeze_us"`   // of the newest one
	NextUS  int64  `json:"every_us"`    // the interval now
	RealUS  int64  `json:"achieved_us"` // from one image to the next, of the last few; 0 before the second
	Why     string `json:"why"`         // what the interval was chosen for, "" if the user chose it
	Failure string `json:"failure"`     // of the newest one, "" if it was taken

	at []time.Duration // of the last few images, since the watch began
}

// savesKept is how many of the last images the interval achieved is of.
const savesKept = 9

func (s *saves) add(o outcome, at time.Duration) {
	if o.why != "" {
		s.Why = o.why
	}
	s.Failure = ""
	if o.err != nil {
		s.Failure = strings.Join(outcome{err: o.err}.lines(), "; ")
	}
	if o.res == nil {
		s.Failed++
		return
	}
	s.Taken++
	s.Last, s.LastUS, s.Freeze = o.res.ID, at.Microseconds(), o.res.FreezeUS
	s.at = append(s.at[max(0, len(s.at)+1-savesKept):], at)
	if n := len(s.at); n > 1 {
		s.RealUS = ((s.at[n-1] - s.at[0]) / time.Duration(n-1)).Microseconds()
	}
}

// text is one line of it.
func (s *saves) text() string {
	line := fmt.Sprintf("saves %d in %s, one every %s", s.Taken, s.Dir, s.interval())
	if s.Taken > 0 {
		line += fmt.Sprintf(", last %s frozen for %s", s.Last, microsText(s.Freeze))
	}
	if s.Failed > 0 {
		line += fmt.Sprintf(", %d failed", s.Failed)
	}
	return line
}

// interval is the interval asked for and, once there are two images, what it really was.
func (s *saves) interval() string {
	if s.RealUS == 0 {
		return microsText(s.NextUS)
	}
	return fmt.Sprintf("%s (achieved: %s)", microsText(s.NextUS), microsText(s.RealUS))
}

// outcomeJSON is a periodic snapshot as a line of JSON.
func outcomeJSON(o outcome) any {
	if o.res == nil {
		return struct {
			Event string    `json:"event"`
			Error errorJSON `json:"error"`
		}{"snapshot_failed", jsonOf(faultsOf(o.err)[0])}
	}
	out := struct {
		Event string `json:"event"`
		*snapshot.Result
		Why   string     `json:"why,omitempty"`
		Prune *errorJSON `json:"prune_error,omitempty"`
	}{Event: "snapshot", Result: o.res, Why: o.why}
	if o.err != nil {
		e := jsonOf(faultsOf(o.err)[0])
		out.Prune = &e
	}
	return out
}

// canceled reports whether a snapshot was given up because its context ended.
func canceled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, &fault.Error{Code: fault.Interrupt})
}
