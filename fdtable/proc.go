package fdtable

import (
	"errors"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// largeFile is O_LARGEFILE as the kernel shows it in f_flags of every file that open(2) made for a 64-bit process;
// package unix has 0 for it on 64-bit machines (include/uapi/asm-generic/fcntl.h).
const largeFile = 0o100000

const accMode = unix.O_ACCMODE

func fdObject(pid, fd int) string { return "fd " + strconv.Itoa(fd) + " of pid " + strconv.Itoa(pid) }

// link is the magic link that leads to the very file behind a descriptor.
func (d *desc) link() string { return "/proc/" + strconv.Itoa(d.pid) + "/fd/" + strconv.Itoa(d.fd) }

// selfLink is the magic link of one of our own descriptors.
func selfLink(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// stat returns what stat(2) says of the file behind d, whatever its name leads to now.
func (c *capturer) stat(d *desc) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := c.in.View.Stat(d.link(), &st); err != nil {
		return st, d.refuse(fault.FDRead, "stat it: %w", err)
	}
	return st, nil
}

// isGone tells that a process or one of its descriptors has gone away.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EBADF)
}

// asFault returns err as a fault, wrapping it under code if it is none.
func asFault(err error, code fault.Code, object string) *fault.Error {
	var f *fault.Error
	if errors.As(err, &f) {
		return f
	}
	return fault.New(code, object, "%w", err)
}

// fsKey tells file systems apart; memory-backed ones share a device number only among themselves.
type fsKey struct {
	dev uint64
	typ uint32
}

// fsType returns the magic number of the file system a description is on (statfs(2)), asked once per device.
func (c *capturer) fsType(d *desc) (int64, error) {
	key := fsKey{d.Dev, d.Mode & unix.S_IFMT}
	if t, ok := c.fsTypes[key]; ok {
		return t, nil
	}
	var sf unix.Statfs_t
	if err := c.in.View.Statfs(d.link(), &sf); err != nil {
		return 0, d.refuse(fault.FDRead, "find its file system: %w", err)
	}
	c.fsTypes[key] = sf.Type
	return sf.Type, nil
}

// named looks up the path of d. It returns true if the path leads to the very file that is open.
func (c *capturer) named(d *desc) (unix.Stat_t, bool, error) {
	var st unix.Stat_t
	lookup := c.in.View.Stat
	if d.Mode&unix.S_IFMT == unix.S_IFLNK {
		lookup = c.in.View.Lstat
	}
	err := lookup(d.Path, &st)
	if err == nil && st.Dev == d.Dev && st.Ino == d.Ino {
		return st, true, nil
	}
	// The source may have seen the device number of the superblock, which is not the one stat(2) tells (btrfs,
	// overlayfs).
	real, statErr := c.stat(d)
	if statErr != nil {
		return real, false, statErr
	}
	d.Dev, d.Ino = real.Dev, real.Ino
	return real, err == nil && st.Dev == real.Dev && st.Ino == real.Ino, nil
}

// checkInfo refuses a descriptor about which the kernel reports more than we know of. It is for kinds whose drivers may
// add to fdinfo; plain files, directories and pipes have nothing of their own there.
func (c *capturer) checkInfo(d *desc) error {
	_, err := c.ownInfo(d)
	return err
}

// ownInfo reads the fdinfo of a kind that says there what it is.
func (c *capturer) ownInfo(d *desc) (procfs.FDInfo, error) {
	info, err := procfs.Pid(d.pid).FDInfo(d.fd)
	if err == nil && info.Kind != "" && info.Kind != d.Kind {
		err = d.refuse(fault.FDInfo, "its fdinfo says that it is a %s", info.Kind)
	}
	return info, err
}

// unknownLine refuses a descriptor with a line of fdinfo that we cannot read.
func (d *desc) unknownLine(l procfs.Line) error {
	return d.refuse(fault.FDInfo, "its fdinfo has the unknown line %q", l.Key+": "+l.Value)
}

func hasLine(info procfs.FDInfo, key string) bool {
	return slices.ContainsFunc(info.Lines, func(l procfs.Line) bool { return l.Key == key })
}
