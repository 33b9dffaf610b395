package fdtable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// Of a directory, FIFO or symbolic link whose name was removed nothing is left but the inode: such a directory is
// empty, and nothing can be made in it. It is made again under a name and opened, and the name is removed.

// captureRemoved records an inode without links that is made again, and tells whether it could be.
func (c *capturer) captureRemoved(d *desc) (bool, error) {
	st, err := c.stat(d)
	if err != nil || st.Nlink != 0 {
		return false, err
	}
	r := &model.Removed{UID: st.Uid, GID: st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR, unix.S_IFIFO:
	case unix.S_IFLNK:
		if r.Target, err = c.linkTarget(d); err != nil {
			return false, err
		}
	default:
		return false, nil
	}
	d.Dev, d.Ino, d.Removed = st.Dev, st.Ino, r
	return true, nil
}

// linkTarget reads what a symbolic link says that is open itself.
func (c *capturer) linkTarget(d *desc) (string, error) {
	fd, err := c.dup(d)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", d.refuse(fault.FDRead, "read the link: %w", err)
	}
	return string(buf[:n]), nil
}

// removed returns a descriptor of ours of the inode that f's became, once however many descriptions lead to it: O_PATH,
// or of a FIFO one for reading and writing.
func (b *builder) removed(f *model.File) (int, error) {
	key := fileKey{f.Dev, f.Ino}
	if fd, ok := b.nameless[key]; ok {
		return fd, nil
	}
	var fd int
	err := underName(strings.TrimSuffix(f.Path, procfs.Deleted), func(name string) (err error) {
		fd, err = makeRemoved(f, name)
		return err
	})
	if err != nil {
		return -1, fault.New(fault.FDRebuild, f.Path, "make it again, which had lost its name: %w", err)
	}
	b.nameless[key] = fd
	b.table.extra = append(b.table.extra, fd)
	return fd, nil
}

// RemovedDir returns a descriptor of ours of a directory that was removed and is made again, as the descriptors that lead
// to it are: there is one, whoever has it.
func (r *Rebuilder) RemovedDir(path string, d *model.GoneDir) (int, error) {
	return r.b.removed(&model.File{
		Path: path, Dev: d.Dev, Ino: d.Ino, Mode: d.Mode, Removed: &model.Removed{UID: d.UID, GID: d.GID},
	})
}

// underName calls use with names until one is not taken: the one that there was, others in the same directory, and if
// that takes none, in the one for temporary files.
func underName(path string, use func(name string) error) error {
	err := use(path)
	for _, dir := range []string{filepath.Dir(path), os.TempDir()} {
		if err == nil {
			return nil
		}
		err = unix.EEXIST
		const attempts = 100
		for i := 0; i < attempts && errors.Is(err, unix.EEXIST); i++ {
			err = use(filepath.Join(dir, fmt.Sprintf(".bpfckpt-%d-%d", os.Getpid(), i)))
		}
	}
	return err
}

// makeRemoved makes the inode under a name, opens it, and removes the name.
func makeRemoved(f *model.File, name string) (fd int, err error) {
	flags, remove := unix.O_PATH|unix.O_NOFOLLOW, 0
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err, remove = unix.Mkdir(name, 0o700), unix.AT_REMOVEDIR
	case unix.S_IFIFO:
		err, flags = unix.Mkfifo(name, 0o600), unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW
	case unix.S_IFLNK:
		err = unix.Symlink(f.Removed.Target, name)
	default:
		err = fmt.Errorf("a file of type %#o", f.Mode&unix.S_IFMT)
	}
	if err != nil {
		return -1, err
	}
	fd, err = unix.Open(name, flags|unix.O_CLOEXEC, 0)
	if gone := unix.Unlinkat(unix.AT_FDCWD, name, remove); err == nil {
		err = gone
	}
	if err != nil {
		return -1, err
	}
	// The owner comes first: changing it clears set-id bits. A link has no mode of its own.
	err = unix.Fchownat(fd, "", int(f.Removed.UID), int(f.Removed.GID), unix.AT_EMPTY_PATH)
	if err == nil && f.Mode&unix.S_IFMT != unix.S_IFLNK {
		err = unix.Chmod(selfLink(fd), f.Mode&0o7777)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
