package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

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

// link is a connection to a watch.
type link struct {
	client  *control.Client
	watcher int      // pid of the watch if we started it, else 0
	notes   []string // what the user should know of that
}

// snapByWatch lets the watch of a process take the snapshot. An incremental one gets a watch if there is none; asked is
// false where there is none all the same, and then err is why it could not be started, nil if that was not tried.
func (c *call) snapByWatch(pid int, o snapshot.Options) (res *snapshot.Result, asked bool, err error) {
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
		l, without, err := watchFor(c.ctx, pid, start, older)
		if err != nil {
			return nil, true, err
		}
		if l == nil {
			return nil, false, without
		}
		notes = append(notes, l.notes...)
		res = &snapshot.Result{}
		err = l.client.Do(c.ctx, control.OpSnap, snapRequest{o}, res, progress)
		l.client.Close()
		switch {
		case err == nil:
			res.Notes = append(res.Notes, notes...)
			return res, true, nil
		case errors.Is(err, control.ErrOlder):
			older = true
			continue
		case outlived(err, pid) && l.gone(c.ctx):
			continue
		}
		if l.watcher != 0 {
			_ = endWatch(c.ctx, pid, true) // it may have ended by itself
		}
		return nil, true, err
	}
	return nil, false, fault.New(fault.WatchGone, pidText(pid), "%d watches ended while they were asked", linkAttempts)
}

// outlived reports whether a watch could not answer because it is ending, while its process lives.
func outlived(err error, pid int) bool {
	if !errors.Is(err, &fault.Error{Code: fault.WatchGone}) && !gone(err, pid) {
		return false
	}
	st, err := procfs.Pid(pid).Stat()
	return err == nil && st.State != 'Z'
}

// gone waits until the watch has ended, and reports whether it has.
func (l *link) gone(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	return l.client.AwaitGone(ctx)
}

// watchFor connects to the watch of a process, nil if there is none. With start, one is started then; without is why
// that did not work. One of an earlier version is replaced: those from before there were versions are told by
// themselves, others have answered so (older).
func watchFor(ctx context.Context, pid int, start, older bool) (l *link, without, err error) {
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
		old, err := endFormer(ctx, pid, client)
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

// takeOver ends a watch of an earlier version in favour of the one that is to follow the process now. If it saved the
// process again and again, and that is not what the new one is for, another goes on with it in the background.
func (c *call) takeOver(pid int, saves bool) error {
	client, found, err := control.Dial(pid)
	if err != nil || !found {
		return err
	}
	defer client.Close()
	if !client.Former() {
		asking, cancel := context.WithTimeout(c.ctx, statusTimeout)
		defer cancel()
		if err := client.Do(asking, control.OpStatus, nil, &watchStatus{}, nil); !errors.Is(err, control.ErrOlder) {
			return nil //nolint:nilerr // it is one like us, whatever is wrong with it
		}
	}
	bounded, cancel := context.WithTimeout(c.ctx, startTimeout)
	defer cancel()
	release, err := control.StartLock(bounded, pid)
	if err != nil {
		return err
	}
	defer release()
	old, err := endFormer(c.ctx, pid, client)
	if err != nil && !errors.Is(err, &fault.Error{Code: fault.NoWatch}) {
		return err
	}
	if !inBackground() {
		c.note("%s", old.note(pid))
	}
	if old.periodic && !saves {
		_, err := startWatch(c.ctx, pid, old.flags)
		return err
	}
	return nil
}

// start starts a watch in the background and connects to it, or to one that somebody has started meanwhile.
func (l *link) start(ctx context.Context, pid int, flags []string) (err error) {
	l.watcher, err = startWatch(ctx, pid, flags)
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
		err = fault.New(fault.WatchGone, pidText(pid), "it ended before it was asked")
	}
	return err
}

// endOptions are those of the request to end.
type endOptions struct {
	Unused bool `json:"unused"` // only if it has taken no snapshot, and takes none
}

// stopWatch ends the watch of pid and waits until it is gone.
func stopWatch(ctx context.Context, pid int) error { return endWatch(ctx, pid, false) }

// endWatch is stopWatch, or, with unused, ends a watch that nobody else makes use of.
func endWatch(ctx context.Context, pid int, unused bool) error {
	client, found, err := control.Dial(pid)
	if err != nil {
		return err
	}
	if !found {
		return fault.New(fault.NoWatch, pidText(pid), "no watch follows it")
	}
	defer client.Close()
	var e endAnswer
	err = client.Do(ctx, control.OpEnd, endOptions{unused}, &e, nil)
	// it may be ending by itself, and then does not answer
	if err != nil && !errors.Is(err, &fault.Error{Code: fault.WatchGone}) {
		return err
	}
	if l := (&link{client: client}); e.Used || l.gone(ctx) {
		return nil
	}
	return fault.New(fault.WatchGone, pidText(pid), "the watch was told to end and has not after %v", stopTimeout).
		WithRemedy("it is process %d: end that", client.Peer())
}

// watched reports whether a watch follows a process.
func watched(pid int) bool {
	c, found, err := control.Dial(pid)
	if found {
		c.Close()
	}
	return err == nil && found
}

// former is a watch of an earlier version that was ended.
type former struct {
	flags    []string // of the verb, for one that goes on with what it did
	periodic bool     // it saved the process again and again
}

func (f *former) note(pid int) string {
	text := fmt.Sprintf("the watch of pid %d was of an earlier version of bpfckpt; it was ended, and another takes its place", pid)
	if f.periodic {
		text += ", which goes on to save " + pidText(pid) + " with " + strings.Join(f.flags, " ")
	}
	return text
}

// endFormer ends a watch of an earlier version. It closes the client.
func endFormer(ctx context.Context, pid int, client *control.Client) (*former, error) {
	defer client.Close()
	f := &former{}
	asking, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var s watchStatus
	// one that does not answer does nothing that could be gone on with
	if err := client.Do(asking, control.OpStatus, nil, &s, nil); err == nil {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", client.Peer()))
		f.flags = watchFlags(strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00"))
		if f.periodic = s.Saves != nil; f.periodic {
			f.flags = append(slices.DeleteFunc(f.flags, func(a string) bool { return strings.HasPrefix(a, "--dir=") }),
				"--dir="+s.Saves.Dir)
		}
	}
	return f, endWatch(ctx, pid, false)
}

// watchFlags are the flags in the command line of a watch that one in the background may have, as NAME=VALUE.
func watchFlags(line []string) (flags []string) {
	at := slices.Index(line, "watch")
	if at < 0 {
		return nil
	}
	takesValue := map[string]bool{} // of the flags that matter here
	for _, f := range watchVerb().flags {
		_, isBool := f.(*cli.BoolFlag)
		if name := f.Names()[0]; !slices.Contains([]string{"list", "background", "stop", "metrics"}, name) {
			takesValue[name] = !isBool
		}
	}
	for args := line[at+1:]; len(args) > 0; args = args[1:] {
		name, value, hasValue := strings.Cut(strings.TrimLeft(args[0], "-"), "=")
		needs, ours := takesValue[name]
		switch {
		case !ours || !strings.HasPrefix(args[0], "-"):
		case !needs:
			flags = append(flags, "--"+name)
		case hasValue:
			flags = append(flags, "--"+name+"="+value)
		case len(args) > 1:
			flags, args = append(flags, "--"+name+"="+args[1]), args[1:]
		}
	}
	return flags
}
