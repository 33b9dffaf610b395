package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/internal/control"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/procid"
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

// eventQueue is how many events may wait to be shown. A watch does not wait for a slow terminal or pipe: what does not
// fit is counted.
const eventQueue = 1 << 16

// statsEvery is how often figures are taken.
const statsEvery = 500 * time.Millisecond

// watching is one use of the verb.
type watching struct {
	*call
	pid     int
	id      procid.ID
	comm    string
	since   time.Time
	w       *tracer.Watcher
	snapper *snapper
	events  chan tracer.Event
	saved   chan outcome // of periodic snapshots; nil if there are none
	saves   *saves       // what came out of saved; nil if there are none
	saving  sync.Mutex   // guards saves
	uses    atomic.Int64 // snapshots that others have taken or are taking
	skipped uint64       // events that were not shown; of whoever calls take until the watch is closed
	end     context.CancelFunc
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
		return stopWatch(c.ctx, pid)
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
	if c.cli.Bool("background") && !inBackground() {
		return c.watchInBackground(pid)
	}
	if saving != nil {
		if saving.opts.Dir = c.cli.String("dir"); saving.opts.Dir == "" {
			saving.opts.Dir = fmt.Sprintf("ckpt-%d", pid)
		}
		if saving.opts.Dir, err = filepath.Abs(saving.opts.Dir); err != nil {
			return fault.New(fault.BadOption, "--dir", "%w", err)
		}
	}
	return c.watchHere(pid, saving)
}

// watchHere is the watch itself.
func (c *call) watchHere(pid int, saving *periodic) (err error) {
	wt := &watching{call: c, pid: pid, since: time.Now(), events: make(chan tracer.Event, eventQueue)}
	if wt.comm, wt.id, err = whoIs(pid); err != nil {
		return err
	}
	wt.ctx, wt.end = context.WithCancel(c.ctx)
	defer wt.end()
	if err := c.takeOver(pid, saving != nil); err != nil {
		return err
	}
	server, err := control.Listen(wt.id, pid)
	if err != nil {
		return err
	}
	defer server.Close()
	opts := tracer.WatchOptions{NoDL: c.cli.Bool("no-dlopen")}
	if !inBackground() {
		opts.OnEvent = wt.take
	}
	wt.w, err = tracer.Watch(wt.ctx, pid, opts)
	if err != nil {
		return err
	}
	defer wt.w.Close()
	if id, err := procid.Of(pid); err != nil || id != wt.id {
		return fault.New(fault.TargetGone, pidText(pid), "it ended before it could be watched")
	}
	wt.snapper = newSnapper(pid, func() kstate.Source { return wt.w.Source() })
	wt.snapper.id = wt.id
	defer wt.snapper.close()
	if saving != nil {
		defer wt.save(saving)()
	}
	go func() { _ = server.Serve(wt.answer) }() // it ends with Close
	if address := c.cli.String("metrics"); address != "" {
		stop, err := wt.serveMetrics(address)
		if err != nil {
			return err
		}
		defer stop()
	}
	return wt.show()
}

// save begins with periodic snapshots. stop ends them, and waits for the one that is under way.
func (wt *watching) save(p *periodic) (stop func()) {
	ctx, cancel := context.WithCancel(wt.ctx)
	p.snapper = wt.snapper
	wt.saved = make(chan outcome)
	wt.saves = &saves{Dir: p.opts.Dir, NextUS: p.next().Microseconds()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.run(ctx, func(o outcome) {
			wt.saving.Lock()
			wt.saves.add(o, time.Since(wt.since))
			wt.saves.NextUS = p.next().Microseconds()
			wt.saving.Unlock()
			select {
			case wt.saved <- o:
			case <-ctx.Done():
			}
		})
	}()
	return func() {
		cancel()
		<-done
	}
}

// whoIs names the process to be watched, or says why it cannot be.
func whoIs(pid int) (comm string, id procid.ID, err error) {
	id, err = procid.Of(pid)
	st := procfs.Stat{}
	if err == nil {
		st, err = procfs.Pid(pid).Stat()
	}
	switch {
	case errors.Is(err, &fault.Error{Code: fault.TargetGone}):
		err = fault.New(fault.NoSuchPid, pidText(pid), "there is no /proc/%d", pid)
	case err != nil:
	case st.State == 'Z':
		err = fault.New(fault.IsZombie, pidText(pid), "%s has ended and waits for its parent, pid %d", st.Comm, st.PPid)
	case st.Flags&procfs.PFKThread != 0:
		err = fault.New(fault.KernelThread, pidText(pid), "%s runs in the kernel", st.Comm)
	}
	return st.Comm, id, err
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
	case inBackground():
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
	wt.w.Close()
	for len(wt.events) > 0 && err == nil {
		err = out.event(<-wt.events)
	}
	end := wt.howEnded()
	end.stats = wt.w.Final()
	return errors.Join(err, out.end(end))
}

// watchOutput is one way to show a watch.
type watchOutput interface {
	event(e tracer.Event) error
	stats(s watchStatus) error
	saved(o outcome) error
	end(e watchEnd) error
}

func (wt *watching) loop(out watchOutput) error {
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	first, err := wt.status(wt.ctx)
	if err == nil {
		err = out.stats(first)
	}
	for err == nil {
		select {
		case e := <-wt.events:
			err = out.event(e)
		case o := <-wt.saved:
			err = out.saved(o)
		case <-tick.C:
			var s watchStatus
			if s, err = wt.status(wt.ctx); err == nil {
				err = out.stats(s)
			}
		case <-wt.w.Done():
			return nil
		case <-wt.ctx.Done():
			return nil
		}
	}
	if errors.Is(err, &fault.Error{Code: fault.TargetGone}) || wt.ctx.Err() != nil {
		return nil
	}
	return err
}

// watchStatus is what a watch tells about itself, to its own output and over the control socket.
type watchStatus struct {
	Pid      int          `json:"pid"`
	Comm     string       `json:"comm"`
	Watcher  int          `json:"watcher"` // pid of the watch
	SinceUS  int64        `json:"since_us"`
	Stats    tracer.Stats `json:"table"`
	RSSBytes int64        `json:"rss_bytes"` // of the root process
	// minor page faults of the root process so far: pages first touched or written
	Faults uint64 `json:"minflt"`
	Saves  *saves `json:"snapshots,omitempty"`
}

func (wt *watching) status(ctx context.Context) (watchStatus, error) {
	s := watchStatus{Pid: wt.pid, Comm: wt.comm, Watcher: os.Getpid(), SinceUS: time.Since(wt.since).Microseconds()}
	var err error
	if s.Stats, err = wt.w.Stats(ctx); err != nil {
		return s, err
	}
	if st, err := procfs.Pid(wt.pid).Stat(); err == nil { // without it the tree has just ended
		s.Comm = st.Comm // it changes at execve(2)
		s.RSSBytes, s.Faults = int64(st.RSS)*int64(os.Getpagesize()), st.MinFlt
	}
	if wt.saves != nil {
		wt.saving.Lock()
		now := *wt.saves
		wt.saving.Unlock()
		s.Saves = &now
	}
	return s, nil
}

// watchEnd is how a watch ended.
type watchEnd struct {
	known  bool // the root process has ended and its status is known
	ended  bool // the root process has ended
	status int  // exit status
	signal string
	text   string
	stats  tracer.Stats
}

func (wt *watching) howEnded() watchEnd {
	select {
	case <-wt.w.Done():
	default:
		return watchEnd{text: "the watch was ended; the process runs on"}
	}
	ws, ok := wt.w.Exit()
	if !ok {
		if wt.ctx.Err() != nil {
			return watchEnd{text: "the watch was ended; the process runs on"}
		}
		return watchEnd{ended: true, text: "it has ended"}
	}
	if ws.Signaled() {
		name := signalName(int(ws.Signal()))
		return watchEnd{
			known: true, ended: true, status: 128 + int(ws.Signal()), signal: name,
			text: "it was killed by " + name,
		}
	}
	return watchEnd{
		known: true, ended: true, status: ws.ExitStatus(),
		text: fmt.Sprintf("it ended with status %d", ws.ExitStatus()),
	}
}
