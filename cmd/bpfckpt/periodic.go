package main

import (
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/agent"
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

// periodic reads the flags; nil if --every is not given. The directory may be set later.
func (c *call) periodic() (*agent.Periodic, error) {
	text := c.cli.String("every")
	if !c.cli.IsSet("every") {
		if i := slices.IndexFunc(periodicOnly, c.cli.IsSet); i >= 0 {
			return nil, usageError(c.verb, "--"+periodicOnly[i], "it is for periodic snapshots: --every is missing")
		}
		return nil, nil
	}
	p := &agent.Periodic{
		Keep: c.cli.Int("keep"), Auto: interval.Auto{MTBF: c.cli.Duration("mtbf"), CPUs: runtime.NumCPU()},
		Options: snapshot.Options{
			Incremental: true, Compress: image.Level(c.cli.String("compress")), MaxFreeze: c.cli.Duration("max-freeze"),
			Exclude: c.cli.StringSlice("exclude"),
		},
	}
	var err error
	if text != "auto" {
		if p.Every, err = time.ParseDuration(text); err != nil || p.Every <= 0 {
			return nil, usageError(c.verb, "--every", "%q is neither a duration such as 30s nor auto", text)
		}
	}
	switch {
	case c.cli.IsSet("mtbf") && text != "auto":
		return nil, usageError(c.verb, "--mtbf", "it is for --every auto")
	case p.Auto.MTBF <= 0:
		return nil, usageError(c.verb, "--mtbf", "%s is no time to fail in", p.Auto.MTBF)
	case c.cli.IsSet("keep") && p.Keep <= 0:
		return nil, usageError(c.verb, "--keep", "%d images are too few: the newest one always stays", p.Keep)
	case c.cli.IsSet("max-freeze") && p.Options.MaxFreeze <= 0:
		return nil, usageError(c.verb, "--max-freeze", "%s is no time to freeze a process in", p.Options.MaxFreeze)
	}
	return p, nil
}

// outcomeLines are what a person is told about a periodic snapshot.
func outcomeLines(o agent.Outcome) []string {
	var out []string
	if o.Result != nil {
		out = append(out, snapText(o.Result))
		out = append(out, o.Notes...)
	}
	if o.Err != nil {
		for _, e := range fault.Of(o.Err) {
			out = append(out, e.Error())
		}
	}
	if o.Why != "" {
		out = append(out, "the next ones "+o.Why)
	}
	return out
}

// outcomeJSON is a periodic snapshot as a line of JSON.
func outcomeJSON(o agent.Outcome) any {
	if o.Result == nil {
		return struct {
			Event string    `json:"event"`
			Error errorJSON `json:"error"`
		}{"snapshot_failed", jsonOf(fault.Of(o.Err)[0])}
	}
	out := struct {
		Event string `json:"event"`
		*snapshot.Result
		Why   string     `json:"why,omitempty"`
		Prune *errorJSON `json:"prune_error,omitempty"`
	}{Event: "snapshot", Result: o.Result, Why: o.Why}
	if o.Err != nil {
		e := jsonOf(fault.Of(o.Err)[0])
		out.Prune = &e
	}
	return out
}

// savesText is one line of what a watch tells about its periodic snapshots.
func savesText(s *agent.Saves) string {
	line := fmt.Sprintf("saves %d in %s, one every %s", s.Taken, s.Dir, intervalText(s))
	if s.Taken > 0 {
		line += fmt.Sprintf(", last %s frozen for %s", s.Last, microsText(s.Freeze))
	}
	if s.Failed > 0 {
		line += fmt.Sprintf(", %d failed", s.Failed)
	}
	return line
}

// savedText is what the list of watches tells of periodic snapshots.
func savedText(s *agent.Saves) string {
	switch {
	case s == nil:
		return "-"
	case s.Failure != "":
		return s.Failure
	}
	return fmt.Sprintf("%d in %s, every %s", s.Taken, s.Dir, intervalText(s))
}

// intervalText is the interval asked for and, once there are two images, what it really was.
func intervalText(s *agent.Saves) string {
	if s.RealUS == 0 {
		return microsText(s.NextUS)
	}
	return fmt.Sprintf("%s (achieved: %s)", microsText(s.NextUS), microsText(s.RealUS))
}
