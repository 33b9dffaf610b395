package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/agent"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/job"
	"github.com/bpfckpt/bpfckpt/tracer"
)

func watchVerb() *verb {
	return &verb{
		name: "watch", operands: "[PID]", min: 0, max: 1,
		short: "follow the kernel state of a process and its children, live",
		long: "Follows every call of the process and its children that changes what a snapshot saves: mappings, libraries, descriptors,\n" +
			"handlers, limits, threads. The process is not stopped and not slowed down noticeably. While a watch runs, snap asks it,\n" +
			"and the process stands still for less time. Ends with the process, and says how that ended, or with Ctrl-C.\n\n" +
			"With --every it also saves the process, again and again, into the directory DIR: the first image holds all of its memory, those\n" +
			"after it what has changed. auto chooses the interval from what a snapshot turns out to cost and from --mtbf.",
		flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "list", Usage: "list the watches that run"},
			&cli.BoolFlag{Name: "background", Usage: "return as soon as the watch runs, and let it run on by itself"},
			&cli.BoolFlag{Name: "stop", Usage: "end the watch of PID; the process runs on"},
			&cli.StringFlag{Name: "dir", Usage: "with --every: save into `DIR`, a store of images (default: ckpt-PID)"},
			&cli.StringFlag{Name: "metrics", Usage: "serve metrics for Prometheus at http://`ADDRESS`/metrics, such as localhost:9400"},
			&cli.BoolFlag{
				Name:  "no-dlopen",
				Usage: "do not follow dlopen: no probe is put into the libraries of the process",
			},
		}, periodicFlags()...),
		examples: []example{
			{"bpfckpt watch 4711", "a live view; Ctrl-C ends it"},
			{"bpfckpt watch 4711 --json | jq 'select(.event==\"openat\").resolved'", "every file it opens"},
			{
				"bpfckpt watch 4711 --every 30s --dir job --keep 10",
				"saves it every 30 seconds; the ten newest images stay",
			},
			{
				"bpfckpt watch 4711 --every auto --mtbf 8h --background",
				"as often as it pays if it fails every eight hours or so",
			},
			{"bpfckpt watch --list", "which processes are watched"},
		},
		exits:      []fault.Class{fault.Failed, fault.KernelLacks},
		ownSignals: false,
		run:        watch,
	}
}

func watch(c *call) error {
	if c.cli.Bool("list") {
		if len(c.args) > 0 {
			return usageError(c.verb, "--list", "it takes no PID")
		}
		return listWatches(c)
	}
	if len(c.args) == 0 {
		return usageError(c.verb, "watch", "PID is missing")
	}
	pid, err := c.pidOperand(0)
	if err != nil {
		return err
	}
	if c.cli.Bool("stop") {
		return agent.Stop(c.ctx, pid)
	}
	saving, err := c.periodic()
	switch {
	case err != nil:
		return err
	case saving == nil && c.cli.IsSet("dir"):
		return usageError(c.verb, "--dir", "it is for periodic snapshots: --every is missing")
	case saving != nil && c.cli.IsSet("dir") && c.cli.String("dir") == "":
		return usageError(c.verb, "--dir", "the directory is empty")
	}
	if c.cli.Bool("background") && !agent.InBackground() {
		return c.watchInBackground(pid)
	}
	if saving != nil {
		if saving.Options.Dir = c.cli.String("dir"); saving.Options.Dir == "" {
			saving.Options.Dir = fmt.Sprintf("ckpt-%d", pid)
		}
		if saving.Options.Dir, err = filepath.Abs(saving.Options.Dir); err != nil {
			return fault.New(fault.BadOption, "--dir", "%w", err)
		}
	}
	return c.watchHere(pid, saving)
}

// takeOver ends a watch of an earlier version, see agent.Client.
func (c *call) takeOver(pid int, saves bool) error {
	note, err := watchClient().TakeOver(c.ctx, pid, saves)
	if note != "" && !agent.InBackground() {
		c.note("%s", note)
	}
	return err
}

// notInBackground are the flags of the verb that have no meaning for a watch in the background.
var notInBackground = []string{"list", "background", "stop", "metrics"}

// watchClient asks watches and starts them, with the flags of the verb.
func watchClient() agent.Client {
	c := agent.Client{Flags: map[string]bool{}}
	for _, f := range watchVerb().flags {
		_, isBool := f.(*cli.BoolFlag)
		if name := f.Names()[0]; !slices.Contains(notInBackground, name) {
			c.Flags[name] = !isBool
		}
	}
	return c
}

// watchInBackground starts the watch that the command line asks for and returns when it runs.
func (c *call) watchInBackground(pid int) error {
	if c.cli.IsSet("metrics") {
		return usageError(c.verb, "--metrics",
			"a watch in the background does not serve metrics; start it with your service manager")
	}
	var flags []string
	for _, f := range c.verb.flags {
		name := f.Names()[0]
		if !c.cli.IsSet(name) || name == "background" {
			continue
		}
		switch f.(type) {
		case *cli.BoolFlag:
			flags = append(flags, "--"+name)
		case *cli.StringSliceFlag:
			for _, value := range c.cli.StringSlice(name) {
				flags = append(flags, "--"+name+"="+value)
			}
		default:
			flags = append(flags, fmt.Sprintf("--%s=%v", name, c.cli.Value(name)))
		}
	}
	if err := c.takeOver(pid, c.cli.IsSet("every")); err != nil {
		return err
	}
	watcher, err := agent.Start(c.ctx, pid, flags)
	if err != nil {
		return err
	}
	if c.json {
		return c.object(map[string]int{"pid": pid, "watcher": watcher})
	}
	c.say("the watch of pid %d runs in the background, pid %d; `bpfckpt watch %d --stop` ends it", pid, watcher, pid)
	return nil
}

// listWatches prints the watches that run.
func listWatches(c *call) error {
	all, silent, err := agent.List(c.ctx)
	if err != nil {
		return err
	}
	for _, err := range silent {
		c.note("%v", err)
	}
	if c.json {
		return c.object(map[string]any{"watches": append([]agent.Status{}, all...)})
	}
	rows := [][]string{{"PID", "COMMAND", "WATCHER", "SINCE", "PROCESSES", "EVENTS", "LOST", "DRIFT", "SAVED"}}
	for _, s := range all {
		rows = append(rows, []string{
			strconv.Itoa(s.Pid), s.Comm, strconv.Itoa(s.Watcher),
			durationText(time.Duration(s.SinceUS) * time.Microsecond),
			strconv.Itoa(s.Stats.Groups), decimal(s.Stats.Events), decimal(s.Stats.Lost), decimal(s.Stats.Drift),
			savedText(s.Saves),
		})
	}
	if len(all) == 0 {
		return c.print("no watch is running\n")
	}
	return c.print(table(rows))
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// watching is a watch that runs here, as it is shown.
type watching struct {
	*call
	pid     int
	watch   *agent.Watch
	events  chan tracer.Event
	skipped uint64 // events that were not shown; of whoever calls take until the watch is finished
}

// eventQueue is how many events may wait to be shown. A watch does not wait for a slow terminal or pipe: what does not
// fit is counted.
const eventQueue = 1 << 16

// watchHere is the watch itself.
func (c *call) watchHere(pid int, saving *agent.Periodic) (err error) {
	wt := &watching{call: c, pid: pid, events: make(chan tracer.Event, eventQueue)}
	if err := c.takeOver(pid, saving != nil); err != nil {
		return err
	}
	o := agent.Options{NoDL: c.cli.Bool("no-dlopen"), Saves: saving}
	if !agent.InBackground() {
		o.OnEvent = wt.take
	}
	if wt.watch, err = agent.Begin(c.ctx, pid, o); err != nil {
		return err
	}
	defer wt.watch.Close()
	if address := c.cli.String("metrics"); address != "" {
		stop, err := serveMetrics(address, wt.watch.Status)
		if err != nil {
			return err
		}
		defer stop()
	}
	return wt.show()
}

// take queues an event. It is called by one goroutine at a time, whoever brings the table up to date, and must not
// wait.
func (wt *watching) take(e *tracer.Event) {
	select {
	case wt.events <- *e:
	default:
		wt.skipped++
	}
}

// show prints until the tree ends or the user interrupts.
func (wt *watching) show() error {
	var out watchOutput
	switch {
	case agent.InBackground():
		out = &quietWatch{wt: wt}
	case wt.json:
		out = &jsonWatch{wt: wt}
	case wt.isTerminal():
		screen, err := newScreen(wt)
		if err != nil {
			return err
		}
		out = screen
	default:
		out = &plainWatch{wt: wt}
	}
	err := wt.loop(out)
	end := wt.watch.Finish()
	for len(wt.events) > 0 && err == nil {
		err = out.event(<-wt.events)
	}
	return errors.Join(err, out.end(endOf(end)))
}

// watchOutput is one way to show a watch.
type watchOutput interface {
	event(e tracer.Event) error
	stats(s agent.Status) error
	saved(o agent.Outcome) error
	end(e watchEnd) error
}

// statsEvery is how often figures are taken.
const statsEvery = 500 * time.Millisecond

func (wt *watching) loop(out watchOutput) error {
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	first, err := wt.watch.Status(wt.ctx)
	if err == nil {
		err = out.stats(first)
	}
	for err == nil {
		select {
		case e := <-wt.events:
			err = out.event(e)
		case o := <-wt.watch.Saved():
			err = out.saved(o)
		case <-tick.C:
			var s agent.Status
			if s, err = wt.watch.Status(wt.ctx); err == nil {
				err = out.stats(s)
			}
		case <-wt.watch.Done():
			return nil
		case <-wt.watch.Told():
			return nil
		}
	}
	if errors.Is(err, &fault.Error{Code: fault.TargetGone}) || isClosed(wt.watch.Told()) {
		return nil
	}
	return err
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// watchEnd is how a watch ended, for people and scripts.
type watchEnd struct {
	agent.End
	code   int    // exit code, if the status is known
	signal string // that killed the root process, "" if none did
	text   string
}

func endOf(end agent.End) watchEnd {
	e := watchEnd{End: end, code: job.ExitCode(end.Status)}
	switch {
	case !e.Ended:
		e.text = "the watch was ended; the process runs on"
	case !e.Known:
		e.text = "it has ended"
	case e.Status.Signaled():
		e.signal = signalName(int(e.Status.Signal()))
		e.text = "it was killed by " + e.signal
	default:
		e.text = fmt.Sprintf("it ended with status %d", e.code)
	}
	return e
}
