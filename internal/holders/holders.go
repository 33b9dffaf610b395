// Package holders finds out who else on the machine has a file open or mapped: memory that several processes share is
// saved right only if all of them are.
//
// It looks from outside, while everybody runs: who takes a file a moment later is not seen. It waits for no file
// system, since it asks none: descriptors and mappings are compared by name first, and those that may be meant by an
// O_PATH descriptor, which a server that hangs does not keep from being had.
package holders

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/view"
)

// File is a file as stat(2) identifies it.
type File struct{ Dev, Ino uint64 }

// Holder is a process that has a file.
type Holder struct {
	Pid   int
	Write bool   // it can change the file
	How   string // "fd 3" or "mapping 7f0000-7f1000"
	Comm  string
	link  string
}

// Text names the holder for people.
func (h Holder) Text() string { return fmt.Sprintf("%s of pid %d (%s)", h.How, h.Pid, h.Comm) }

// Outside is the processes outside of a tree. Those below it are not: they were made after it was looked at, and have
// what they inherited. Processes that end meanwhile, or may not be looked at, have nothing. What the descriptors lead
// to is read when it is asked for first, and once.
type Outside struct {
	tree  map[int]bool
	own   Own
	procs []process
}

// Own is what this process had open at a moment, before it opened thousands of files of a tree itself.
type Own []link

// Here reads what this process has open now.
func Here(v *view.View) Own { return links(v.Mine()) }

type process struct {
	pid   int
	links []link
}

// link is where a descriptor leads, as its link in /proc/PID/fd says it.
type link struct {
	fd int
	to string
}

// Of returns the processes outside of the given ones, this one with what it had open.
func Of(tree map[int]bool, own Own) *Outside { return &Outside{tree: tree, own: own} }

func (o *Outside) read(ctx context.Context) error {
	if o.procs != nil {
		return nil
	}
	pids, err := procfs.Pids("/proc")
	if err != nil {
		return err
	}
	procs := make([]process, 0, len(pids))
	self := os.Getpid()
	for _, pid := range pids {
		if o.tree[pid] {
			continue
		}
		if pid == self {
			procs = append(procs, process{pid, o.own})
			continue
		}
		procs = append(procs, process{pid, links(procfs.Pid(pid))})
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	o.procs = procs
	return nil
}

func links(d procfs.Dir) []link {
	fds, err := d.FDs()
	if err != nil {
		return nil
	}
	list := make([]link, 0, len(fds))
	for _, fd := range fds {
		if to, err := d.Link("fd/" + strconv.Itoa(fd)); err == nil {
			list = append(list, link{fd, to})
		}
	}
	return list
}

// Descriptors tells of each descriptor whose link is wanted, those of this process among them.
func (o *Outside) Descriptors(ctx context.Context, wanted map[string]bool, found func(pid, fd int, link string)) error {
	if err := o.read(ctx); err != nil {
		return err
	}
	for _, p := range o.procs {
		outside := false
		for _, l := range p.links {
			if !wanted[l.to] {
				continue
			}
			if !outside && o.descends(p.pid) {
				break
			}
			outside = true
			found(p.pid, l.fd, l.to)
		}
	}
	return nil
}

// Find looks for who has the files, given with a path each, the last part of which counts. This process has none.
func (o *Outside) Find(ctx context.Context, files map[File]string) (map[File][]Holder, error) {
	if err := o.read(ctx); err != nil {
		return nil, err
	}
	f := finder{
		files: files, names: map[string]bool{}, inodes: map[uint64]bool{}, found: map[File][]Holder{},
	}
	for file, path := range files {
		f.names[base(path)] = true
		f.inodes[file.Ino] = true
	}
	for _, p := range o.procs {
		if p.pid == os.Getpid() {
			continue
		}
		before := f.count
		f.descriptors(p)
		f.mappings(p.pid)
		if f.count > before && o.descends(p.pid) {
			f.forget(p.pid)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	if len(f.found) == 0 {
		return f.found, nil
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(passing):
	}
	f.lookAgain()
	return f.found, nil
}

// passing is how long after the first look those that were found are looked at once more: who looks at files as we do,
// another snapshot of another tree for example, has each for a moment.
const passing = 5 * time.Millisecond

// descends reports whether a process is below one of the tree. The tree had no other members when it stood still, so
// that this one was made since, and what it has it inherited.
func (o *Outside) descends(pid int) bool {
	for pid > 1 {
		st, err := procfs.Pid(pid).Stat()
		if err != nil || o.tree[st.PPid] {
			return true // or it has ended, and holds nothing any more
		}
		pid = st.PPid
	}
	return false
}

type finder struct {
	files  map[File]string
	names  map[string]bool // last parts of paths
	inodes map[uint64]bool
	found  map[File][]Holder
	count  int
}

func base(path string) string { return filepath.Base(strings.TrimSuffix(path, procfs.Deleted)) }

// descriptors looks through those of a process.
func (f *finder) descriptors(p process) {
	d := procfs.Pid(p.pid)
	for _, l := range p.links {
		if f.names[base(l.to)] {
			name := strconv.Itoa(l.fd)
			f.confirm(string(d)+"/fd/"+name, Holder{Pid: p.pid, How: "fd " + name, Write: writes(d, l.fd)})
		}
	}
}

// writes tells whether a descriptor may be written to; one of which that cannot be told may.
func writes(d procfs.Dir, fd int) bool {
	info, err := d.FDInfo(fd)
	return err != nil || info.Flags&unix.O_PATH == 0 && info.Flags&unix.O_ACCMODE != unix.O_RDONLY
}

// mappings looks through those of a process.
func (f *finder) mappings(pid int) {
	list, err := procfs.Pid(pid).Maps()
	if err != nil {
		return
	}
	for i := range list {
		m := &list[i]
		if !m.HasFile() || !f.inodes[m.Ino] {
			continue
		}
		f.confirm(fmt.Sprintf("/proc/%d/map_files/%s", pid, m.Key()),
			Holder{Pid: pid, How: "mapping " + m.Key(), Write: m.Shared && m.Prot&unix.PROT_WRITE != 0})
	}
}

// at returns the file that a link of /proc leads to.
func at(link string) (file File, ok bool) {
	fd, err := unix.Open(link, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return File{}, false
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st) != nil {
		return File{}, false
	}
	return File{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}, true
}

// lookAgain drops those that have a file no more.
func (f *finder) lookAgain() {
	for file, list := range f.found {
		list = slices.DeleteFunc(list, func(h Holder) bool {
			now, ok := at(h.link)
			return !ok || now != file
		})
		if f.found[file] = list; len(list) == 0 {
			delete(f.found, file)
		}
	}
}

// confirm notes a holder if the link leads to one of the files.
func (f *finder) confirm(link string, h Holder) {
	file, ok := at(link)
	if !ok {
		return
	}
	if _, ok := f.files[file]; !ok {
		return
	}
	h.link = link
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
