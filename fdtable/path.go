package fdtable

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

const kindPath = "path"

var _ = register(kind{
	name: kindPath, capture: capturePath, open: openPath,
})

// capturePath records an O_PATH descriptor, which stands for a place in the tree of files and has no other state
// (open(2)).
func capturePath(c *capturer, d *desc) error {
	if !strings.HasPrefix(d.Path, "/") {
		return d.refuse(fault.FDKind, "it is an O_PATH descriptor of %s, which has no name", d.Path)
	}
	_, ok, err := c.named(d)
	if err != nil {
		return err
	}
	if !ok {
		if ok, err = c.pathWithoutName(d); err != nil {
			return err
		}
	}
	if !ok {
		return d.refuse(fault.FDDeleted, "it is an O_PATH descriptor of %s, which no longer leads to the same file",
			d.Path)
	}
	fs, err := c.fsType(d)
	if err != nil {
		return err
	}
	if pid := procPid(d.Path); fs == unix.PROC_SUPER_MAGIC && pid != "" {
		return refuseProcPid(d, pid)
	}
	return nil
}

// pathWithoutName records what an O_PATH descriptor leads to that has no name any more, and tells whether it could.
func (c *capturer) pathWithoutName(d *desc) (bool, error) {
	st, err := c.stat(d)
	if err != nil {
		return false, err
	}
	if st.Nlink != 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return c.captureRemoved(d)
	}
	d.Unlinked = c.unlinkedFile(&st, strings.TrimSuffix(d.Path, procfs.Deleted))
	return true, nil
}

// openPath opens the place again; only the type of what is there is checked.
func openPath(b *builder, f *model.File) (int, error) {
	if f.Unlinked != 0 || f.Removed != nil {
		return b.openPathless(f)
	}
	fd, err := b.o.View.Open(f.Path, unix.O_PATH|int(f.Flags&(unix.O_DIRECTORY|unix.O_NOFOLLOW)))
	if err != nil {
		return -1, fileGone(f, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != f.Mode&unix.S_IFMT {
		_ = unix.Close(fd)
		return -1, fault.New(fault.FileChanged, f.Path, "it was of type %#o and is of type %#o now", f.Mode&unix.S_IFMT,
			st.Mode&unix.S_IFMT)
	}
	return b.checkFlags(f, fd)
}

// openPathless opens what has no name any more.
func (b *builder) openPathless(f *model.File) (fd int, err error) {
	if f.Removed != nil {
		fd, err = b.removed(f)
	} else {
		fd, err = b.unlinkedFD(f)
	}
	if err == nil && f.Mode&unix.S_IFMT == unix.S_IFLNK {
		return b.original(f, fd) // its link in /proc would be another link
	}
	if err == nil {
		fd, err = unix.Open(selfLink(fd), unix.O_PATH|unix.O_CLOEXEC|int(f.Flags&unix.O_DIRECTORY), 0)
	}
	if err != nil {
		return -1, asFault(err, fault.FDRebuild, fileObject(f))
	}
	return b.checkFlags(f, fd)
}
