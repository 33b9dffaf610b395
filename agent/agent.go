// Package agent is what a watch is: a process that follows the kernel state of a tree (package tracer), takes the
// snapshots that others ask it for, or its own now and then, and knows in between which pages were written.
//
// Begin makes this process the watch of a tree; Client finds the watch of a process, asks it, starts one in the
// background, and replaces one of an earlier version. A Snapper takes the snapshots of one tree one after the other; a
// Periodic takes them by itself. Both are also what package job saves its command with.
//
// # Protocol
//
// A watch is asked over a socket of its own: package internal/control, which the servers of restore --lazy speak too,
// and which therefore is not part of this package. A request is a line of JSON with the version of the protocol, the
// identity of the process that is meant, an operation and its options; the answers are lines with the version of who
// answers, and progress, a result, or faults. What the operations of a watch take and give is defined here:
//
//	operation  options                    result
//	status     none                       Status
//	snap       snapshot.Options           snapshot.Result, with progress in bytes on the way
//	end        only if nobody makes use   whether it goes on, since somebody does
//
// Both sides have one version, control.Version. A watch refuses requests of any other with E_CONTROL_SOCKET, but for
// end from a later one. So a command that meets an earlier watch gets control.ErrOlder, ends it, and starts its own,
// which goes on with what the other did; a command that meets a later one gets control.ErrNewer, and leaves it alone.
// The version changes with anything that one side would misunderstand.
package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/control"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/procid"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/tracer"
)

// Options says how a process is watched. The zero value of each field is its default.
type Options struct {
	NoDL    bool                // do not follow dlopen: no probe is put into the libraries of the process
	OnEvent func(*tracer.Event) // is called with every event, by one goroutine at a time, and must not wait
	Saves   *Periodic           // also save the tree by itself; nil: only when asked
}

// Watch is the watch of a tree of processes, in this process. Its methods may be called by several goroutines, but for
// Finish and Close.
type Watch struct {
	pid   int
	view  *view.View
	id    procid.ID
	comm  string
	since time.Time
	ctx   context.Context // ends when the watch is told to end
	end   context.CancelFunc
	undo  []func()

	table   *tracer.Watcher
	snapper *Snapper
	uses    atomic.Int64 // snapshots that others have taken or are taking

	saved  chan Outcome // nil if it does not save by itself
	saving sync.Mutex   // guards saves
	saves  *Saves       // nil if it does not save by itself
}

// Begin makes this process the watch of the process pid and those below it, until Close, or until ctx ends or somebody
// asks it to end (Told). The first fault is the one that counts: fault.NoSuchPid, IsZombie or KernelThread for a pid
// that cannot be watched, fault.Watched if it is, and those of package tracer.
func Begin(ctx context.Context, pid int, o Options) (*Watch, error) {
	v, err := view.Own()
	if err != nil {
		return nil, err
	}
	w := &Watch{pid: pid, view: v, since: time.Now()}
	if w.comm, w.id, err = whoIs(v, pid); err != nil {
		return nil, err
	}
	w.ctx, w.end = context.WithCancel(ctx)
	w.undo = append(w.undo, w.end)
	if err := w.begin(o); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (w *Watch) begin(o Options) error {
	server, err := control.Listen(w.id, w.pid)
	if err != nil {
		return err
	}
	w.undo = append(w.undo, func() { _ = server.Close() }) // what is left is removed by the next watch
	w.table, err = tracer.Watch(w.ctx, w.pid, tracer.WatchOptions{NoDL: o.NoDL, OnEvent: o.OnEvent})
	if err != nil {
		return err
	}
	w.undo = append(w.undo, func() { _ = w.table.Close() }) // it never fails
	if id, err := w.view.Process(w.pid); err != nil || id != w.id {
		return fault.New(fault.TargetGone, pidName(w.pid), "it ended before it could be watched")
	}
	w.snapper = NewSnapper(w.pid, SnapperOptions{ID: w.id, Live: func() kstate.Source { return w.table.Source() }})
	w.undo = append(w.undo, w.snapper.Close)
	if o.Saves != nil {
		w.undo = append(w.undo, w.save(o.Saves))
	}
	go func() { _ = server.Serve(w.answer) }() // it ends with Close
	return nil
}

// Close ends the watch, after a snapshot that is under way; more than once does no harm. The process runs on.
func (w *Watch) Close() {
	for _, undo := range slices.Backward(w.undo) {
		undo()
	}
	w.undo = nil
}

// save begins with periodic snapshots. stop ends them, and waits for the one that is under way.
func (w *Watch) save(p *Periodic) (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	w.saved = make(chan Outcome)
	w.saves = &Saves{Dir: p.Options.Dir, NextUS: p.Next().Microseconds()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.run(ctx, w.snapper, func(o Outcome) {
			w.saving.Lock()
			w.saves.add(o, time.Since(w.since))
			w.saves.NextUS = p.Next().Microseconds()
			w.saving.Unlock()
			select {
			case w.saved <- o:
			case <-ctx.Done():
			}
		})
	}()
	return func() {
		cancel()
		<-done
	}
}

// Saved is where each periodic snapshot is told of; the next one waits until somebody has taken it. nil if the watch
// does not save by itself.
func (w *Watch) Saved() <-chan Outcome { return w.saved }

// Done is closed when the tree has ended, or Finish or Close ended the watch.
func (w *Watch) Done() <-chan struct{} { return w.table.Done() }

// Told is closed when the watch is to end: somebody has asked it to, or the context of Begin has ended.
func (w *Watch) Told() <-chan struct{} { return w.ctx.Done() }

// Status is what a watch tells about itself, also to others. Times are microseconds.
type Status struct {
	Pid      int          `json:"pid"`
	Comm     string       `json:"comm"`
	Watcher  int          `json:"watcher"` // pid of the watch
	SinceUS  int64        `json:"since_us"`
	Stats    tracer.Stats `json:"table"`
	RSSBytes int64        `json:"rss_bytes"` // of the root process
	// minor page faults of the root process so far: pages first touched or written
	Faults uint64 `json:"minflt"`
	Saves  *Saves `json:"snapshots,omitempty"` // nil if it does not save by itself
}

// Status asks the table of the watch, and the kernel.
func (w *Watch) Status(ctx context.Context) (Status, error) {
	s := Status{Pid: w.pid, Comm: w.comm, Watcher: os.Getpid(), SinceUS: time.Since(w.since).Microseconds()}
	var err error
	if s.Stats, err = w.table.Stats(ctx); err != nil {
		return s, err
	}
	if st, err := procfs.Pid(w.pid).Stat(); err == nil { // without it the tree has just ended
		s.Comm = st.Comm // it changes at execve(2)
		s.RSSBytes, s.Faults = int64(st.RSS)*int64(os.Getpagesize()), st.MinFlt
	}
	if w.saves != nil {
		w.saving.Lock()
		now := *w.saves
		w.saving.Unlock()
		s.Saves = &now
	}
	return s, nil
}

// End is how a watch ended.
type End struct {
	Ended  bool            // the root process has ended; else the watch was ended, and the process runs on
	Known  bool            // it has ended and its status is known
	Status unix.WaitStatus // of the root process, if it is known
	Stats  tracer.Stats    // the last figures
}

// Finish stops to follow the tree, so that no event comes after it, and tells how the watch ended. Close must follow.
func (w *Watch) Finish() End {
	_ = w.table.Close() // it never fails
	e := End{Stats: w.table.Final()}
	e.Status, e.Known = w.table.Exit()
	e.Ended = e.Known || w.ctx.Err() == nil
	return e
}

// whoIs names the process to be watched, or says why it cannot be.
func whoIs(v *view.View, pid int) (comm string, id procid.ID, err error) {
	id, err = v.Process(pid)
	st := procfs.Stat{}
	if err == nil {
		st, err = procfs.Pid(pid).Stat()
	}
	switch {
	case errors.Is(err, &fault.Error{Code: fault.TargetGone}):
		err = fault.New(fault.NoSuchPid, pidName(pid), "there is no /proc/%d", pid)
	case err != nil:
	case st.State == 'Z':
		err = fault.New(fault.IsZombie, pidName(pid), "%s has ended and waits for its parent, pid %d", st.Comm, st.PPid)
	case st.Flags&procfs.PFKThread != 0:
		err = fault.New(fault.KernelThread, pidName(pid), "%s runs in the kernel", st.Comm)
	}
	return st.Comm, id, err
}

func pidName(pid int) string { return fmt.Sprintf("pid %d", pid) }

// Gone reports whether an error says that a target has ended: the root of the tree, not a process below it.
func Gone(err error, root int) bool {
	if err == nil {
		return false
	}
	faults := fault.Of(err)
	about := slices.IndexFunc(faults, func(f *fault.Error) bool {
		return slices.Contains([]fault.Code{fault.TargetGone, fault.NoSuchPid, fault.IsZombie}, f.Code)
	})
	switch {
	case about < 0:
		return false
	case faults[about].Object == pidName(root):
		return true
	}
	st, err := procfs.Pid(root).Stat()
	return err != nil || st.State == 'Z' || st.State == 'X'
}
