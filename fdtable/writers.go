package fdtable

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/holders"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// A file is cut back only while nobody else writes to it. The kernel counts who has a file open for writing, over all
// namespaces, and grants a read lease only where that count is zero (fcntl(2), F_SETLEASE): mostly that is the answer.
// Who it is stands in /proc.

// writerOutside returns who has a regular file open for writing, or mapped so: somebody who is neither this process nor
// one below it. "" means nobody. It is to be asked before this process opens the file for writing itself.
func writerOutside(k Known) (string, error) {
	if leased(k) {
		return "", nil
	}
	pids, err := readNames("/proc")
	if err != nil {
		return "", err
	}
	own := map[int]bool{os.Getpid(): true}
	for _, name := range pids {
		pid, err := strconv.Atoi(name)
		if err != nil || own[pid] {
			continue
		}
		if r, ok := writesTo(pid, k); ok && !holders.Descends("/proc", pid, own) {
			return r, nil
		}
	}
	if ownWriter(k) {
		return "", nil
	}
	return "somebody whom this command cannot see", nil
}

// leased reports that the kernel knows of nobody who has the file open for writing. Not every file system has leases.
func leased(k Known) bool {
	fd, err := unix.Open(k.Path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
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
func ownWriter(k Known) bool {
	names, err := readNames("/proc/self/fd")
	if err != nil {
		return false
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || !k.isOpenAt(fd) {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY {
			return true
		}
	}
	return false
}

// writesTo looks for a descriptor or mapping of a process that can write to the file, and names it.
func writesTo(pid int, k Known) (string, bool) {
	dir := procfs.Pid(pid)
	fds, err := dir.FDs()
	if err != nil {
		return "", false // it has ended
	}
	for _, fd := range fds {
		link := string(dir) + "/fd/" + strconv.Itoa(fd)
		info, err := dir.FDInfo(fd)
		if err != nil || info.Flags&unix.O_ACCMODE == unix.O_RDONLY || info.Flags&unix.O_PATH != 0 {
			continue
		}
		if mayBe(k, info.Ino, func() string { name, _ := os.Readlink(link); return name }) && isFile(link, k) {
			return ref{pid, fd}.text(), true
		}
	}
	maps, err := dir.Maps()
	if err != nil {
		return "", false
	}
	for i := range maps {
		m := &maps[i]
		if !m.Shared || m.Prot&unix.PROT_WRITE == 0 || !m.HasFile() || !mayBe(k, m.Ino, func() string { return m.Name }) {
			continue
		}
		if isFile(string(dir)+"/map_files/"+m.Key(), k) {
			return fmt.Sprintf("pid %d (%s), which maps it", pid, commOf(pid)), true
		}
	}
	return "", false
}

// mayBe is a first look without touching the file system, whose server may hang: the inode number, which overlayfs and
// btrfs may tell otherwise than stat(2), or the last part of the name.
func mayBe(k Known, ino uint64, name func() string) bool {
	return ino == k.Ino || filepath.Base(strings.TrimSuffix(name(), deletedSuffix)) == filepath.Base(k.Path)
}

// isFile asks whether a magic link of /proc leads to the file, without asking a server for it.
func isFile(link string, k Known) bool {
	at, _, err := knownNow(link, unix.AT_STATX_DONT_SYNC)
	return err == nil && at.Dev == k.Dev && at.Ino == k.Ino
}

// commOf is the name of a process for messages.
func commOf(pid int) string {
	comm, err := procfs.Pid(pid).Comm()
	if err != nil {
		return "?" // it has ended
	}
	return comm
}
