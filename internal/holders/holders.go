// Package holders finds out who else on the machine has a file open or mapped: memory that several processes share is
// saved right only if all of them are.
//
// It looks from outside, while everybody runs: who takes a file a moment later is not seen. It waits for no file
// system, since it asks none: descriptors and mappings are compared by name first, and those that may be meant by an
// O_PATH descriptor, which a server that hangs does not keep from being had.
package holders

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// File is a file as stat(2) identifies it.
type File struct{ Dev, Ino uint64 }

// Holder is a process that has a file.
type Holder struct {
	Pid   int
	Write bool   // it can change the file
	How   string // "fd 3" or "mapping 7f0000-7f1000"
	Comm  string
}

// Text names the holder for people.
func (h Holder) Text() string { return fmt.Sprintf("%s of pid %d (%s)", h.How, h.Pid, h.Comm) }

// deleted is what the kernel appends to the name of a file that has none any more.
const deleted = " (deleted)"

// Find looks for the files, given with a path each (the last part of which counts, as links of /proc/PID/fd show it),
// in all processes except this one, those of tree and those below them: they were made since, and have what they
// inherited. Processes that end meanwhile, or may not be looked at, have nothing.
func Find(ctx context.Context, files map[File]string, tree map[int]bool) (map[File][]Holder, error) {
	f := finder{files: files, names: map[string]bool{}, found: map[File][]Holder{}}
	for file, path := range files {
		f.names[base(path)] = true
		f.inodes = append(f.inodes, []byte(" "+strconv.FormatUint(file.Ino, 10)+" "))
	}
	names, err := readNames("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() || tree[pid] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		before := f.count
		f.descriptors(pid)
		f.mappings(pid)
		if f.count > before && Descends("/proc", pid, tree) {
			f.forget(pid)
		}
	}
	return f.found, nil
}

// Descends reports whether a process is below one of the tree. The tree had no other members when it stood still, so
// that this one was made since, and what it has it inherited.
func Descends(proc string, pid int, tree map[int]bool) bool {
	for pid > 1 {
		st, err := procfs.Dir(filepath.Join(proc, strconv.Itoa(pid))).Stat()
		if err != nil || tree[st.PPid] {
			return true // or it has ended, and holds nothing any more
		}
		pid = st.PPid
	}
	return false
}

type finder struct {
	files  map[File]string
	names  map[string]bool
	inodes [][]byte // as a line of maps has them
	found  map[File][]Holder
	count  int
}

func base(path string) string { return filepath.Base(strings.TrimSuffix(path, deleted)) }

// descriptors looks through those of a process.
func (f *finder) descriptors(pid int) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := readNames(dir)
	if err != nil {
		return
	}
	for _, fd := range fds {
		link, err := os.Readlink(dir + "/" + fd)
		if err != nil || !f.names[base(link)] {
			continue
		}
		f.confirm(dir+"/"+fd, Holder{Pid: pid, How: "fd " + fd, Write: writes(pid, fd)})
	}
}

// writes tells whether a descriptor may be written to.
func writes(pid int, fd string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(text), 8, 64)
			return err == nil && flags&unix.O_PATH == 0 && flags&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	return false
}

// mappings looks through those of a process.
func (f *finder) mappings(pid int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil || !slices.ContainsFunc(f.inodes, func(ino []byte) bool { return bytes.Contains(b, ino) }) {
		return
	}
	list, err := procfs.ParseMaps(bytes.NewReader(b))
	if err != nil {
		return
	}
	for i := range list {
		m := &list[i]
		if !m.HasFile() || !slices.ContainsFunc(f.inodes,
			func(ino []byte) bool { return string(ino) == fmt.Sprintf(" %d ", m.Ino) }) {
			continue
		}
		f.confirm(fmt.Sprintf("/proc/%d/map_files/%s", pid, m.Key()),
			Holder{Pid: pid, How: "mapping " + m.Key(), Write: m.Shared && m.Prot&unix.PROT_WRITE != 0})
	}
}

// confirm notes a holder if the link leads to one of the files.
func (f *finder) confirm(link string, h Holder) {
	fd, err := unix.Open(link, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st) != nil {
		return
	}
	file := File{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
	if _, ok := f.files[file]; !ok {
		return
	}
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", h.Pid)) // for people only
	h.Comm = strings.TrimSpace(string(comm))
	f.found[file] = append(f.found[file], h)
	f.count++
}

// forget drops what was found of a process.
func (f *finder) forget(pid int) {
	for file, list := range f.found {
		if list = slices.DeleteFunc(list, func(h Holder) bool { return h.Pid == pid }); len(list) == 0 {
			delete(f.found, file)
			continue
		}
		f.found[file] = list
	}
}

func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	return d.Readdirnames(-1)
}
