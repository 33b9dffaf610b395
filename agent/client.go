package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/control"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

// Bounds of what others take.
const (
	startTimeout  = 30 * time.Second // for another command to start a watch of the same process
	stopTimeout   = 10 * time.Second // for an ending watch to be gone
	statusTimeout = 5 * time.Second  // for a watch to tell about itself
	linkAttempts  = 3                // for a watch that does not end while it is asked
)

// Client is a command that makes use of watches.
type Client struct {
	// Flags are the flags of the verb watch, without dashes, that one in the background may have, and whether each
	// takes a value: what a watch of an earlier version was started with is given to the one that takes its place.
	Flags map[string]bool
}

// Snap asks the watch of the process to save its tree, or does the work itself, as Options.Source says: "watch" for the
// watch, "" for whichever there is. For an incremental snapshot it starts a watch, so that the next one knows what has
// been written. Errors are those of snapshot.Snap; fault.NoSource if there is to be a watch and is none.
func (c Client) Snap(ctx context.Context, pid int, o snapshot.Options) (*snapshot.Result, error) {
	var without error // why there is no watch
	if o.Source == "" || o.Source == "watch" {
		res, asked, err := c.snapByWatch(ctx, pid, o)
		switch {
		case asked:
			return res, err
		case o.Source == "watch":
			return nil, fault.New(fault.NoSource, pidName(pid), "no watch follows it").
				WithRemedy("start one: bpfckpt watch %d", pid)
		}
		without = err
	}
	res, err := snapshot.Snap(ctx, pid, o)
	if err == nil && without != nil {
		consequence := ""
		if o.Incremental {
			consequence = ", so all memory was read and compared"
		}
		res.Notes = append(res.Notes, fmt.Sprintf("no watch could be started%s: %v", consequence, without))
	}
	return res, err
}

// snapByWatch lets the watch of a process take the snapshot. An incremental one gets a watch if there is none; asked is
// false where there is none all the same, and then err is why it could not be started, nil if that was not tried.
func (c Client) snapByWatch(ctx context.Context, pid int, o snapshot.Options) (
	res *snapshot.Result, asked bool, err error,
) {
	progress, must := o.Progress, o.Source == "watch"
	start := o.Incremental && !must
	o.Progress, o.Source = nil, ""
	if o.Dir == "" {
		o.Dir = fmt.Sprintf("ckpt-%d", pid)
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil { // the watch is somewhere else
		return nil, true, fault.New(fault.ControlSocket, o.Dir, "%w", err)
	}
	older := false
	var notes []string
	for range linkAttempts {
		l, without, err := c.watchFor(ctx, pid, start, older)
		if err != nil {
			return nil, true, err
		}
		if l == nil {
			return nil, false, without
		}
		notes = append(notes, l.notes...)
		res = &snapshot.Result{}
		err = l.client.Do(ctx, control.OpSnap, snapRequest{o}, res, progress)
		l.client.Close()
		switch {
		case err == nil:
			res.Notes = append(res.Notes, notes...)
			return res, true, nil
		case errors.Is(err, control.ErrOlder):
			older = true
			continue
		case outlived(err, pid) && gone(ctx, l.client):
			continue
		}
		if l.watcher != 0 {
			_ = end(ctx, pid, true) // it may have ended by itself
		}
		return nil, true, err
	}
	return nil, false, fault.New(fault.WatchGone, pidName(pid), "%d watches ended while they were asked", linkAttempts)
}

// outlived reports whether a watch could not answer because it is ending, while its process lives.
func outlived(err error, pid int) bool {
	if !errors.Is(err, &fault.Error{Code: fault.WatchGone}) && !Gone(err, pid) {
		return false
	}
	st, err := procfs.Pid(pid).Stat()
	return err == nil && st.State != 'Z'
}

// gone waits until the watch that was asked has ended, and reports whether it has.
func gone(ctx context.Context, client *control.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	return client.AwaitGone(ctx)
}

// link is a connection to a watch.
type link struct {
	client  *control.Client
	watcher int      // pid of the watch if we started it, else 0
	notes   []string // what the user should know of that
}

// watchFor connects to the watch of a process, nil if there is none. With start, one is started then; without is why
// that did not work. One of an earlier version is replaced: those from before there were versions are told by
// themselves, others have answered so (older).
func (c Client) watchFor(ctx context.Context, pid int, start, older bool) (l *link, without, err error) {
	replace := func(c *control.Client) bool { return older || c.Former() }
	client, found, err := control.Dial(pid)
	switch {
	case err != nil, !found && !start:
		return nil, nil, err
	case found && !replace(client):
		return &link{client: client}, nil, nil
	case found:
		client.Close()
	}
	// One of many starts it. What the others find then is as good.
	bounded, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	release, without := control.StartLock(bounded, pid)
	if without != nil {
		return nil, without, nil
	}
	defer release()
	client, found, err = control.Dial(pid)
	if err != nil || found && !replace(client) {
		return &link{client: client}, nil, err
	}
	l = &link{}
	var flags []string
	if found {
		old, err := c.endFormer(ctx, pid, client)
		if err != nil {
			return nil, nil, err
		}
		flags, l.notes = old.flags, append(l.notes, old.note(pid))
	}
	if without = l.start(ctx, pid, flags); without != nil {
		return nil, without, nil
	}
	return l, nil, nil
}

// start starts a watch in the background and connects to it, or to one that somebody has started meanwhile.
func (l *link) start(ctx context.Context, pid int, flags []string) (err error) {
	l.watcher, err = Start(ctx, pid, flags)
	found := false
	switch {
	case errors.Is(err, &fault.Error{Code: fault.Watched}):
		bounded, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		l.client, found, err = control.Await(bounded, pid)
	case err == nil:
		l.notes = append(l.notes, fmt.Sprintf("a watch was started in the background, pid %d; `bpfckpt watch %d --stop` ends it", l.watcher, pid))
		l.client, found, err = control.Dial(pid)
	}
	if err == nil && !found {
		err = fault.New(fault.WatchGone, pidName(pid), "it ended before it was asked")
	}
	return err
}

// Stop ends the watch of pid and waits until it is gone, ten seconds at most. fault.NoWatch if there is none.
func Stop(ctx context.Context, pid int) error { return end(ctx, pid, false) }

// end is Stop, or, with unused, ends a watch that nobody else makes use of.
func end(ctx context.Context, pid int, unused bool) error {
	client, found, err := control.Dial(pid)
	if err != nil {
		return err
	}
	if !found {
		return fault.New(fault.NoWatch, pidName(pid), "no watch follows it")
	}
	defer client.Close()
	var e endAnswer
	err = client.Do(ctx, control.OpEnd, endRequest{unused}, &e, nil)
	// it may be ending by itself, and then does not answer
	if err != nil && !errors.Is(err, &fault.Error{Code: fault.WatchGone}) {
		return err
	}
	if e.Used || gone(ctx, client) {
		return nil
	}
	return fault.New(fault.WatchGone, pidName(pid), "the watch was told to end and has not after %v", stopTimeout).
		WithRemedy("it is process %d: end that", client.Peer())
}

// Watched reports whether a watch follows a process.
func Watched(pid int) bool {
	c, found, err := control.Dial(pid)
	if found {
		c.Close()
	}
	return err == nil && found
}

// List asks the watches that run about themselves, by ascending pid of the processes that they follow. Each that does
// not answer is an error among silent; one that has just ended is not.
func List(ctx context.Context) (all []Status, silent []error, err error) {
	found, err := control.List()
	if err != nil {
		return nil, nil, err
	}
	for _, f := range found {
		s, err := askStatus(ctx, f)
		switch {
		case err == nil:
			all = append(all, s)
		case !errors.Is(err, &fault.Error{Code: fault.WatchGone}) && !Gone(err, f.Pid):
			silent = append(silent, err)
		}
	}
	return all, silent, nil
}

// askStatus asks a watch about itself. It closes the connection.
func askStatus(ctx context.Context, f control.Found) (s Status, err error) {
	defer f.Client.Close()
	asking, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	err = f.Client.Do(asking, control.OpStatus, nil, &s, nil)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = fault.New(fault.ControlSocket, pidName(f.Pid), "its watch, pid %d, does not answer", f.Client.Peer())
	}
	s.Pid, s.Watcher = f.Pid, f.Client.Peer() // as we see them
	return s, err
}
