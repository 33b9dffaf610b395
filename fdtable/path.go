package fdtable

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// capturePath records an O_PATH descriptor, which stands for a place in the tree of files and has no other state (open(2)).
func capturePath(c *capturer, d *desc) error {
	if !strings.HasPrefix(d.Path, "/") {
		return d.refuse(fault.FDKind, "it is an O_PATH descriptor of %s, which has no name", d.Path)
	}
	_, ok, err := c.named(d)
	if err != nil {
		return err
	}
	if !ok {
		return d.refuse(fault.FDDeleted, "it is an O_PATH descriptor of %s, which no longer leads to the same file", d.Path)
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

// openPath opens the place again; only the type of what is there is checked.
func openPath(b *builder, f *image.File) (int, error) {
	fd, err := unix.Open(f.Path, unix.O_PATH|unix.O_CLOEXEC|int(f.Flags&(unix.O_DIRECTORY|unix.O_NOFOLLOW)), 0)
	if err != nil {
		return -1, fileGone(f, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != f.Mode&unix.S_IFMT {
		_ = unix.Close(fd)
		return -1, fault.New(fault.FileChanged, f.Path, "it was of type %#o and is of type %#o now", f.Mode&unix.S_IFMT, st.Mode&unix.S_IFMT)
	}
	return b.checkFlags(f, fd)
}
