package tracer

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// fds builds the descriptors, and the open file descriptions they lead to.
func (b *builder) fds(raw *rawProcess, p *model.Process) error {
	p.FDs = make([]model.FD, 0, len(raw.fds))
	for i := range raw.fds {
		r := &raw.fds[i]
		index, known := b.files[r.File]
		if !known {
			f, err := b.file(raw.pid, r)
			if err != nil && b.stopped {
				return err // in a running process it may be closed by now; then the inode's own numbers stay
			}
			index = len(b.out.Files)
			f.ID = index + 1
			b.files[r.File] = index
			b.out.Files = append(b.out.Files, f)
		}
		p.FDs = append(p.FDs, model.FD{Num: int(r.Fd), Cloexec: r.Cloexec != 0, File: index + 1})
	}
	return nil
}

func (b *builder) file(pid int, r *rawFD) (model.File, error) {
	f := model.File{
		Flags: cleanFlags(r.Flags), Pos: r.Pos, Mode: r.Inode.Mode, Dev: userDev(r.Inode.Dev), Ino: r.Inode.Ino,
		Rdev: userDev(r.Inode.Rdev), Path: r.path,
		Unlocked: r.Inode.Bits&uint32(bpf.IterInodeBitINODE_LOCKED) == 0,
	}
	if now, ok := b.now[int32(r.Clock)]; ok && r.Expires != 0 {
		f.Expiry = b.now[unix.CLOCK_MONOTONIC] + r.Expires - now
	}
	name := fmt.Sprintf("fd/%d", r.Fd)
	if r.path == "" { // longer than a page, or not to be named from our root
		path, err := procfs.Pid(pid).Link(name)
		if err != nil {
			return f, fmt.Errorf("path of descriptor %d: %w", r.Fd, err)
		}
		f.Path = path
	}
	if !doubtful(&r.Inode) {
		return f, nil
	}
	st, err := procfs.Pid(pid).Stat2(name)
	if err != nil {
		return f, fmt.Errorf("identity of descriptor %d: %w", r.Fd, err)
	}
	f.Mode, f.Dev, f.Ino, f.Rdev = st.Mode, st.Dev, st.Ino, st.Rdev
	return f, nil
}

// cleanFlags leaves out what is not a flag of the description.
func cleanFlags(flags uint32) uint32 { return flags &^ unix.O_CLOEXEC }
