//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package beneath

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// handle is the descriptor of a directory.
type handle struct{ file *os.File }

// dirFlags open a directory, or nothing: no FIFO is waited for.
const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC

func openHandle(path string) (handle, error) {
	f, err := os.OpenFile(path, dirFlags, 0)
	return handle{f}, err
}

// at calls one of the …at system calls. The descriptor stays open meanwhile.
func (h handle) at(op, name string, call func(dir int) error) error {
	if err := plain(name); err != nil {
		return err
	}
	raw, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for failed = unix.EINTR; failed == unix.EINTR; {
			failed = call(int(fd))
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: filepath.Join(h.file.Name(), name), Err: err}
	}
	return nil
}

// open opens what has a name, whatever it is but a link.
func (h handle) open(name string, flag int, mode uint32) (*os.File, error) {
	return h.openAs(name, flag|unix.O_NONBLOCK, mode)
}

func (h handle) openAs(name string, flag int, mode uint32) (*os.File, error) {
	var fd int
	err := h.at("open", name, func(dir int) (err error) {
		fd, err = unix.Openat(dir, name, flag|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(h.file.Name(), name)), nil
}

func (h handle) sub(name string) (handle, error) {
	f, err := h.openAs(name, dirFlags, 0)
	return handle{f}, err
}

func (h handle) stat() (fs.FileInfo, error) { return h.file.Stat() }

// Close lets the directory go.
func (h handle) Close() error { return h.file.Close() }

// Sync makes the names in the directory durable. File systems that cannot do that for a directory say EINVAL.
func (h handle) Sync() error {
	if err := h.file.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// Names lists the directory, in no order.
func (h handle) Names() ([]string, error) {
	var fd int
	raw, err := h.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	// Another description: a list has a position.
	cerr := raw.Control(func(dir uintptr) { fd, err = unix.Openat(int(dir), ".", dirFlags, 0) })
	if cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: h.file.Name(), Err: err}
	}
	again := os.NewFile(uintptr(fd), h.file.Name())
	defer func() { _ = again.Close() }()
	return again.Readdirnames(-1)
}

// Lstat tells what there is under a name.
func (h handle) Lstat(name string) (Entry, error) {
	var st unix.Stat_t
	err := h.at("lstat", name, func(dir int) error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	e := Entry{Blocks: st.Blocks * 512, file: [2]uint64{uint64(st.Dev), st.Ino}}
	switch uint32(st.Mode) & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		e.Type = fs.ModeDir
	case unix.S_IFLNK:
		e.Type = fs.ModeSymlink
	case unix.S_IFIFO:
		e.Type = fs.ModeNamedPipe
	default:
		e.Type = fs.ModeIrregular
	}
	return e, err
}

// Leads reports whether a name still leads to an open file.
func (h handle) Leads(name string, f *os.File) bool {
	e, err := h.Lstat(name)
	fi, ferr := f.Stat()
	if err != nil || ferr != nil {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && e.file == [2]uint64{uint64(st.Dev), st.Ino}
}

// Mkdir makes a directory of mode 0700.
func (h handle) Mkdir(name string) error {
	return h.at("mkdir", name, func(dir int) error { return unix.Mkdirat(dir, name, 0o700) })
}

// Remove removes a file, or a directory that is empty.
func (h handle) Remove(name string) error {
	return h.at("remove", name, func(dir int) error {
		err := unix.Unlinkat(dir, name, 0)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return err
		}
		if derr := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); !errors.Is(derr, unix.ENOTDIR) {
			return derr
		}
		return err
	})
}

// Rename gives what has a name another one, perhaps in another directory.
func (h handle) Rename(name string, to *Dir, as string) error {
	if err := plain(as); err != nil {
		return err
	}
	return h.at("rename", name, func(dir int) error {
		raw, err := to.file.SyscallConn()
		if err != nil {
			return err
		}
		if cerr := raw.Control(func(fd uintptr) { err = unix.Renameat(dir, name, int(fd), as) }); cerr != nil {
			return cerr
		}
		return err
	})
}

// ownerOf is the user that a file belongs to.
func ownerOf(fi fs.FileInfo) (uid uint32, known bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Uid, true
}

// trusted reports whether a user can do to us what he likes anyway.
func trusted(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

// OneName reports whether an open file has a single name: what is done to it, is done to no other.
func OneName(f *os.File) bool {
	fi, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 1
}
