package fdtable

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/holders"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// A file is cut back only while nobody else writes to it. The kernel counts who has a file open for writing, over all
// namespaces, and grants a read lease only where that count is zero (fcntl(2), F_SETLEASE): mostly that is the answer.
// Who it is stands in /proc.

// writerOutside returns who has a regular file open for writing, or mapped so: somebody who is neither this process nor
// one below it. "" means nobody. It is to be asked before this process opens the file for writing itself.
func writerOutside(ctx context.Context, v *view.View, k Known) (string, error) {
	if leased(v, k) {
		return "", nil
	}
	file := model.Object{ID: model.Inode(k.Dev, k.Ino), Links: []string{k.Path}, Mapped: true}
	found, err := holders.Of(map[int]bool{v.Self: true}, nil).Holders(ctx, []model.Object{file})
	if err != nil {
		return "", err
	}
	for _, h := range found[file.ID] {
		if h.Write {
			return h.Text(), nil
		}
	}
	if ownWriter(v, k) {
		return "", nil
	}
	return "somebody whom this command cannot see", nil
}

// leased reports that the kernel knows of nobody who has the file open for writing. Not every file system has leases.
func leased(v *view.View, k Known) bool {
	fd, err := v.Open(k.Path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	if !k.isOpenAt(fd) {
		return false
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		return false
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
	return err == nil
}

// isOpenAt tells whether our descriptor leads to the file.
func (k Known) isOpenAt(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Dev == k.Dev && st.Ino == k.Ino
}

// ownWriter reports whether one of our own descriptors can write to the file.
func ownWriter(v *view.View, k Known) bool {
	fds, err := v.Mine().FDs()
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if !k.isOpenAt(fd) {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil &&
			flags&unix.O_ACCMODE != unix.O_RDONLY {
			return true
		}
	}
	return false
}
