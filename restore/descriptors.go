package restore

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// descriptors are the open descriptions of the image, and who has them.
type descriptors struct {
	j        *journal
	img      *image.Reader
	st       *model.State
	o        fdtable.RebuildOptions // but for State
	handover *handover

	rebuild *fdtable.Rebuilder // nil until the first is opened
}

// open opens State.Files[i] again.
func (d *descriptors) open(i int) error {
	if err := d.j.step("open descriptors"); err != nil {
		return err
	}
	return d.rebuilder().Open(i)
}

// rebuilder opens descriptions. It is made when the first one, or their table, is needed: what is named memory must be
// known by then.
func (d *descriptors) rebuilder() *fdtable.Rebuilder {
	if d.rebuild == nil {
		o := d.o
		o.State = d.st
		d.rebuild = fdtable.Begin(d.j.ctx, d.img, o)
		d.j.onEnd(d.rebuild.Table().Close)
	}
	return d.rebuild
}

// table is all that is open.
func (d *descriptors) table() *fdtable.Table { return d.rebuilder().Table() }

// commit does the last things to files, which cannot be taken back.
func (d *descriptors) commit() error {
	notes, err := d.table().Commit()
	d.j.notes = append(d.j.notes, notes...)
	return err
}

// give puts the descriptors of a process in place. They arrive as 0, 1, 2, ..., without the number of the socket,
// which none of them has, in ascending order of their real numbers. So each one's number is at most its real one, and
// moving them from the last to the first never meets one that has not been moved.
func (d *descriptors) give(p *process) error {
	fds := make([]int, len(p.rec.FDs))
	for i, fd := range p.rec.FDs {
		if fds[i] = d.table().FDFor(fd.File, fd.Num); fds[i] < 0 {
			return fault.New(fault.RestoreState, fmt.Sprintf("fd %d of pid %d", fd.Num, p.rec.Pid),
				"the image has no description %d", fd.File)
		}
	}
	if err := d.handover.send(p, fds); err != nil {
		return err
	}
	b := p.batch(p.lead)
	for i := len(p.rec.FDs) - 1; i >= 0; i-- {
		fd := p.rec.FDs[i]
		flags := 0
		if fd.Cloexec {
			flags = unix.O_CLOEXEC
		}
		at := p.arrival(i)
		if fd.Num == at {
			flags = 0
			if fd.Cloexec {
				flags = unix.FD_CLOEXEC
			}
			b.call(fmt.Sprintf("flags of fd %d", at), unix.SYS_FCNTL, at, unix.F_SETFD, flags)
			continue
		}
		b.call(fmt.Sprintf("place fd %d", fd.Num), unix.SYS_DUP3, at, fd.Num, flags)
		b.call("close the copy", unix.SYS_CLOSE, at)
	}
	b.call("close the socket", unix.SYS_CLOSE, p.socket)
	return b.done()
}

// commitFiles does the last things to files, which cannot be taken back.
func commitFiles(j *journal, o *objects, d *descriptors) error {
	if err := j.step("commit descriptors"); err != nil {
		return err
	}
	if err := o.setTimes(); err != nil {
		return err
	}
	return d.commit()
}
