package view

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Names are looked up in the tree of files of this process, as /proc gives them: below its root directory, in its mount
// namespace.

// Stat is stat(2).
func (*View) Stat(name string, st *unix.Stat_t) error { return unix.Stat(name, st) }

// Lstat is lstat(2).
func (*View) Lstat(name string, st *unix.Stat_t) error { return unix.Lstat(name, st) }

// Statx is statx(2).
func (*View) Statx(name string, flags, mask int, st *unix.Statx_t) error {
	return unix.Statx(unix.AT_FDCWD, name, flags, mask, st)
}

// Statfs is statfs(2).
func (*View) Statfs(name string, st *unix.Statfs_t) error { return unix.Statfs(name, st) }

// Open is open(2) of what is there, with O_CLOEXEC: no file is made.
func (*View) Open(name string, flags int) (fd int, err error) {
	return unix.Open(name, flags&^unix.O_CREAT|unix.O_CLOEXEC, 0)
}

// ReadDir lists a directory.
func (*View) ReadDir(name string) ([]os.DirEntry, error) { return os.ReadDir(name) }

// Mount is one mount of the tree of files.
type Mount struct {
	Dev    uint64 // as stat(2) gives it
	Point  string
	Type   string // of the file system
	Source string
}

// Mounts lists the mounts (proc_pid_mountinfo(5)); a later one covers an earlier one at the same point.
func (v *View) Mounts() ([]Mount, error) {
	text, err := v.Mine().Read("mountinfo")
	if err != nil {
		return nil, err
	}
	var list []Mount
	for line := range strings.Lines(string(text)) {
		m, err := parseMount(line)
		if err != nil {
			return nil, fmt.Errorf("read mounts: line %q: %w", line, err)
		}
		list = append(list, m)
	}
	return list, nil
}

func parseMount(line string) (Mount, error) {
	before, after, ok := strings.Cut(line, " - ")
	f, g := strings.Fields(before), strings.Fields(after)
	if !ok || len(f) < 5 || len(g) < 2 {
		return Mount{}, errors.ErrUnsupported
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(f[2], "%d:%d", &major, &minor); err != nil {
		return Mount{}, err
	}
	return Mount{Dev: unix.Mkdev(major, minor), Point: unescape.Replace(f[4]), Type: g[0], Source: g[1]}, nil
}

// unescape undoes what mountinfo does to white space and backslashes in names.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
