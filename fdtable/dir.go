package fdtable

import (
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

const kindDir = "dir"

var _ = register(kind{
	name: kindDir, capture: captureDir, open: openDir,
})

// captureDir records a directory. Its position is the cookie of its file system, which stays valid for the same
// directory.
func captureDir(c *capturer, d *desc) error {
	_, ok, err := c.named(d)
	if err != nil {
		return err
	}
	if !ok {
		if ok, err = c.captureRemoved(d); err != nil {
			return err
		}
	}
	if !ok {
		return d.refuse(fault.FDDeleted, "the directory %s was removed or its name leads elsewhere now", d.Path)
	}
	d.Size, d.MTime = 0, 0
	return c.refuseNotify(d)
}

// refuseNotify finds dnotify, which fdinfo does not show: F_NOTIFY makes the process the owner of the description.
func (c *capturer) refuseNotify(d *desc) error {
	fd, err := c.dup(d)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	own, err := getOwner(fd)
	if err != nil {
		return d.refuse(fault.FDRead, "ask for its owner: %w", err)
	}
	if own.ID != 0 || own.Signal != 0 {
		return d.refuse(fault.FDNotify, "signal delivery is set up for the directory %s, as F_NOTIFY does", d.Path)
	}
	return nil
}

// openDir opens the directory again by name.
func openDir(b *builder, f *model.File) (int, error) {
	if f.Removed != nil {
		fd, err := b.removed(f)
		if err != nil {
			return -1, err
		}
		if fd, err = b.reopen(f, fd); err != nil {
			return -1, err
		}
		return b.seek(f, fd)
	}
	if err := b.checkNamed(f); err != nil {
		return -1, err
	}
	fd, err := b.openNamed(f, unix.S_IFDIR)
	if err != nil {
		return -1, err
	}
	return b.seek(f, fd)
}
