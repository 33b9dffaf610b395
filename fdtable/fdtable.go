// Package fdtable saves and rebuilds open file descriptions, one file per kind: capture -> record -> rebuild. A kind
// registers itself (kind.go); what is known of it without Linux is in package model.
//
// Capture and Finish complete the descriptions a kstate.Source found; Rebuild opens every description again in the
// restoring process, which hands it to the new processes. What cannot be rebuilt exactly is refused by name, never
// skipped.
//
// Paths are those of the view's root, as readlink on /proc/PID/fd gives them.
package fdtable

import (
	"context"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// Input is what Capture and Finish work on.
type Input struct {
	// State has Processes and Files as a source filled them. Files, Pipes, Terminals, Unlinked and Shmems are completed
	// in place.
	State *model.State
	// View is where paths, pids and clocks are looked at from: that of the source.
	View *view.View
	// Running says that the tree is not stopped and must not be disturbed: contents of pipes are left alone, and a
	// descriptor that vanishes meanwhile is no error.
	Running bool
	// Brief takes the names of files that have one to lead to them still, which to know of thousands takes its time.
	Brief bool
	// FD duplicates a descriptor of a process into this one; Capture closes what it returns. nil stands for
	// pidfd_getfd(2) (Linux 5.6).
	FD func(pid, fd int) (int, error)
	// Holders is who outside the tree has what of State.Shareable, for Finish; nil for a look of its own.
	Holders model.Holders
}

// A desc is a description with one process that holds it.
type desc struct {
	*model.File
	pid, fd int
	refs    []ref
	std     int // 1 + the lowest standard stream number among refs, 0 if none
}

// A ref is one descriptor that refers to a description.
type ref struct{ pid, fd int }

func (r ref) object() string { return fdObject(r.pid, r.fd) }

// refuse returns a fault about the description; its object names the descriptor.
func (d *desc) refuse(code fault.Code, format string, args ...any) *fault.Error {
	return fault.New(code, fdObject(d.pid, d.fd), format, args...)
}

// readable and writable tell the access mode.
func readable(f *model.File) bool { return f.Flags&unix.O_ACCMODE != unix.O_WRONLY }
func writable(f *model.File) bool { return f.Flags&unix.O_ACCMODE != unix.O_RDONLY }

// Capture completes in.State.Files, Pipes, Terminals, Unlinked (without Space and content) and Shmems (memfds; without
// Space and content). It is to run under the freeze, and fast: it reads the content of pipes only. It never stops at
// the first thing that cannot be saved, it returns all of them.
func Capture(ctx context.Context, in Input) []*fault.Error {
	c := newCapturer(in)
	defer c.close()
	for _, d := range c.descs {
		if err := ctx.Err(); err != nil {
			return append(c.faults, d.refuse(fault.FDRead, "%w", err))
		}
		c.captureOne(d)
	}
	c.settlePackets()
	c.captureLocks()
	return c.faults
}

func (c *capturer) captureOne(d *desc) {
	name, err := c.classify(d)
	k := kinds[name]
	if err == nil {
		d.Kind = name
		err = d.checkFlags(k.flags)
	}
	if err == nil && k.silent {
		err = c.checkInfo(d)
	}
	if err == nil {
		err = k.capture(c, d)
	}
	if err != nil {
		c.add(d, err)
	}
}

// knownFlags are the bits of f_flags we know how to put back or know to be without effect after open(2).
const knownFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_NONBLOCK | unix.O_SYNC | unix.O_DSYNC | unix.O_ASYNC | unix.O_DIRECT | largeFile |
	unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NOATIME | unix.O_CLOEXEC | unix.O_PATH | unix.O_TMPFILE

// checkFlags refuses a description with status flags that are neither known nor among those of its kind's own.
func (d *desc) checkFlags(own uint32) error {
	d.Flags &^= unix.O_CLOEXEC
	if rest := d.Flags &^ (knownFlags | own); rest != 0 {
		return d.refuse(fault.FDInfo, "it has the unknown status flags %#o", rest)
	}
	return nil
}

// newCapturer finds, for each description, the descriptors that refer to it.
func newCapturer(in Input) *capturer {
	c := &capturer{in: in, st: in.State, fsTypes: map[fsKey]int64{}, pipes: map[fileKey]int{}, pidfds: map[int]int{}}
	refs := map[int][]ref{}
	for i := range in.State.Processes {
		p := &in.State.Processes[i]
		for _, fd := range p.FDs {
			refs[fd.File] = append(refs[fd.File], ref{p.Pid, fd.Num})
		}
	}
	for i := range in.State.Files {
		f := &in.State.Files[i]
		d := &desc{File: f, refs: refs[f.ID]}
		if len(d.refs) == 0 {
			continue
		}
		d.pid, d.fd = d.refs[0].pid, d.refs[0].fd
		for _, r := range d.refs {
			if r.fd < 3 && (d.std == 0 || r.fd+1 < d.std) {
				d.std = r.fd + 1
			}
		}
		c.descs = append(c.descs, d)
	}
	return c
}

// capturer is the state of one Capture or Finish.
type capturer struct {
	in       Input
	st       *model.State
	descs    []*desc
	fsTypes  map[fsKey]int64
	pipes    map[fileKey]int // 1-based index into st.Pipes
	contents []pipeContent   // beside st.Pipes
	scratch  scratch
	pidfds   map[int]int // by pid
	fileOf   map[ref]int // made by fileAt
	faults   []*fault.Error
}

// add records a fault about d, unless the descriptor is gone and may be.
func (c *capturer) add(d *desc, err error) {
	if c.in.Running && isGone(err) {
		return
	}
	c.faults = append(c.faults, asFault(err, fault.FDRead, fdObject(d.pid, d.fd)))
}

// dup duplicates the description into this process; the caller closes it.
func (c *capturer) dup(d *desc) (int, error) {
	take := c.in.FD
	if take == nil {
		take = c.pidfdGet
	}
	fd, err := take(d.pid, d.fd)
	if err != nil {
		return -1, d.refuse(fault.FDRead, "duplicate it: %w", err)
	}
	return fd, nil
}

// pidfdGet takes a descriptor out of a process. It keeps the pidfds: opening one costs more than using it.
func (c *capturer) pidfdGet(pid, fd int) (int, error) {
	p, ok := c.pidfds[pid]
	if !ok {
		var err error
		if p, err = unix.PidfdOpen(pid, 0); err != nil {
			return -1, err
		}
		c.pidfds[pid] = p
	}
	return unix.PidfdGetfd(p, fd, 0)
}

func (c *capturer) close() {
	c.scratch.close()
	for _, p := range c.pidfds {
		_ = unix.Close(p)
	}
}

// ofKind returns the descriptions of the given kinds in order of id.
func (c *capturer) ofKind(names ...string) []*desc {
	var out []*desc
	for _, d := range c.descs {
		if slices.Contains(names, d.Kind) {
			out = append(out, d)
		}
	}
	return out
}
