// Package fdtable saves and rebuilds open file descriptions, one file per kind: capture -> record -> rebuild.
//
// Capture and Finish complete the descriptions a kstate.Source found; Rebuild opens every description again in the
// restoring process, which hands it to the new processes. What cannot be rebuilt exactly is refused by name, never
// skipped.
//
// Paths are those of the tool's own root, as readlink on /proc/PID/fd gives them.
package fdtable

import (
	"context"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/holders"
	"github.com/bpfckpt/bpfckpt/model"
)

// Input is what Capture and Finish work on.
type Input struct {
	// State has Processes and Files as a source filled them. Files, Pipes, Terminals, Ghosts and Shmems are completed
	// in place.
	State *model.State
	// Running says that the tree is not stopped and must not be disturbed: contents of pipes are left alone, and a
	// descriptor that vanishes meanwhile is no error.
	Running bool
	// Brief takes the names of files that have one to lead to them still, which to know of thousands takes its time.
	Brief bool
	// FD duplicates a descriptor of a process into this one; Capture closes what it returns. nil stands for
	// pidfd_getfd(2) (Linux 5.6).
	FD func(pid, fd int) (int, error)
	// Outside is where Finish looks for other holders, nil for a look of its own.
	Outside *holders.Outside
}

// The names of the kinds in model.File.Kind. Kinds that are always refused never reach an image.
const (
	kindRegular = "regular" // regular.go
	kindDir     = "dir"     // dir.go
	kindPath    = "path"    // path.go: O_PATH
	kindChar    = "chardev" // chardev.go
	kindPipe    = "pipe"    // pipe.go
	kindFIFO    = "fifo"    // fifo.go
	kindMemfd   = "memfd"   // memfd.go
	kindTTY     = "tty"     // tty.go
	kindPseudo  = "pseudo"  // pseudo.go
	kindSocket  = "socket"  // socket.go: as a standard stream only

	kindEventFD  = "eventfd"  // eventfd.go
	kindTimerFD  = "timerfd"  // timerfd.go
	kindSignalFD = "signalfd" // signalfd.go
	kindEpoll    = "epoll"    // epoll.go
	kindInotify  = "inotify"  // inotify.go
)

// A kind captures and rebuilds one sort of description.
type kind struct {
	// completes d.File; an error keeps the tree from being saved
	capture func(c *capturer, d *desc) error
	open    func(b *builder, f *model.File) (fd int, err error) // opens it again in this process
}

// kinds is filled in the file of each kind; a kind without an entry is refused.
func kinds() map[string]kind {
	return map[string]kind{
		kindRegular: {captureRegular, openRegular},
		kindDir:     {captureDir, openDir},
		kindPath:    {capturePath, openPath},
		kindChar:    {captureChar, openChar},
		kindPipe:    {capturePipe, openPipe},
		kindFIFO:    {capturePipe, openFIFO},
		kindMemfd:   {captureMemfd, openMemfd},
		kindTTY:     {captureTTY, openTTY},
		kindPseudo:  {capturePseudo, openPseudo},
		kindSocket:  {captureSocket, openStdOnly},

		kindEventFD:  {captureEventFD, openEventFD},
		kindTimerFD:  {captureTimerFD, openTimerFD},
		kindSignalFD: {captureSignalFD, openSignalFD},
		kindEpoll:    {captureEpoll, openEpoll},
		kindInotify:  {captureInotify, openInotify},
	}
}

// classify names the kind of a description; it returns a fault for those of which none can be saved.
func (c *capturer) classify(d *desc) (string, error) {
	f := d.File
	switch {
	case f.Flags&unix.O_PATH != 0:
		return kindPath, nil
	case f.Mode&unix.S_IFMT == 0:
		return classifyAnon(d)
	}
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return c.classifyOnDisk(d, kindDir)
	case unix.S_IFREG:
		return c.classifyOnDisk(d, kindRegular)
	case unix.S_IFCHR:
		return classifyChar(d)
	case unix.S_IFIFO:
		if strings.HasPrefix(f.Path, "pipe:[") {
			return kindPipe, nil
		}
		return kindFIFO, nil
	case unix.S_IFSOCK:
		return kindSocket, nil
	case unix.S_IFBLK:
		return "", refuseBlock(d)
	}
	return "", d.refuse(fault.FDKind, "its file mode %#o is of no known type", f.Mode)
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

// Capture completes in.State.Files, Pipes, Terminals, Ghosts (without Space and content) and Shmems (memfds; without
// Space and content). It is to run under the freeze, and fast: it reads the content of pipes only. It never stops at
// the first thing that cannot be saved, it returns all of them.
func Capture(ctx context.Context, in Input) []*fault.Error {
	c := newCapturer(in)
	defer c.close()
	all := kinds()
	for _, d := range c.descs {
		if err := ctx.Err(); err != nil {
			return append(c.faults, d.refuse(fault.FDRead, "%w", err))
		}
		c.captureOne(d, all)
	}
	c.settlePackets()
	c.captureLocks()
	return c.faults
}

func (c *capturer) captureOne(d *desc, all map[string]kind) {
	name, err := c.classify(d)
	if err == nil {
		d.Kind = name
		err = c.checkFlags(d)
	}
	if err == nil && (name == kindTTY || name == kindPseudo || name == kindSocket || name == kindMemfd) {
		err = c.checkInfo(d)
	}
	if err == nil {
		err = all[name].capture(c, d)
	}
	if err != nil {
		c.add(d, err)
	}
}

// knownFlags are the bits of f_flags we know how to put back or know to be without effect after open(2).
const knownFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_NONBLOCK | unix.O_SYNC | unix.O_DSYNC | unix.O_ASYNC | unix.O_DIRECT | largeFile |
	unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NOATIME | unix.O_CLOEXEC | unix.O_PATH | unix.O_TMPFILE

func (c *capturer) checkFlags(d *desc) error {
	d.Flags &^= unix.O_CLOEXEC
	if rest := d.Flags &^ knownFlags; rest != 0 {
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
