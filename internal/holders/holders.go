// Package holders finds out who else on the machine has what a tree has open or mapped: what several processes share is
// saved right only if all of them are. There is one query for all kinds of objects.
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
	"github.com/bpfckpt/bpfckpt/model"
)

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

// Holders looks for who has the objects. This process has what it had open under the very name, if that is no mapping.
func (o *Outside) Holders(ctx context.Context, objects []model.Object) (model.Holders, error) {
	if len(objects) == 0 {
		return model.Holders{}, nil
	}
	if err := o.read(ctx); err != nil {
		return nil, err
	}
	f := newFinder(objects)
	for _, p := range o.procs {
		before := len(f.found)
		if p.pid == os.Getpid() {
			f.ours(p)
		} else {
			f.descriptors(p)
			f.mappings(p.pid)
		}
		if len(f.found) > before && o.descends(p.pid) {
			f.found = f.found[:before]
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	f.descriptions()
	if slices.ContainsFunc(f.found, func(h found) bool { return h.link != "" }) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(passing):
		}
		f.lookAgain()
	}
	return f.holders(), nil
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

// finder looks for the holders of objects.
type finder struct {
	objects map[model.ObjectID]*model.Object
	links   map[string][]*model.Object // by the links they have
	names   map[string]bool            // the last parts of those
	mapped  map[uint64]bool            // inode numbers of what may be mapped
	found   []found
}

// found is a holder of an object. Of a description it is to be found out of which, until then id is none.
type found struct {
	model.Holder
	id   model.ObjectID
	link string // below /proc, of what is to be looked at again
	to   string // where descriptor fd leads, of a description
	fd   int
}

func newFinder(objects []model.Object) *finder {
	f := &finder{
		objects: map[model.ObjectID]*model.Object{}, links: map[string][]*model.Object{}, names: map[string]bool{},
		mapped: map[uint64]bool{},
	}
	for i := range objects {
		o := &objects[i]
		f.objects[o.ID] = o
		for _, link := range o.Links {
			f.links[link] = append(f.links[link], o)
			f.names[base(link)] = true
		}
		if o.Mapped {
			f.mapped[o.ID.Num] = true
		}
	}
	return f
}

func base(path string) string { return filepath.Base(strings.TrimSuffix(path, procfs.Deleted)) }

// ours takes what this process has.
func (f *finder) ours(p process) {
	for _, l := range p.links {
		if objects := f.links[l.to]; len(objects) > 0 {
			f.descriptor(p.pid, l, objects[0])
		}
	}
}

// descriptors looks through those of a process.
func (f *finder) descriptors(p process) {
	for _, l := range p.links {
		if !f.names[base(l.to)] {
			continue
		}
		if objects := f.links[l.to]; len(objects) > 0 && !strings.HasPrefix(l.to, "/") {
			f.descriptor(p.pid, l, objects[0]) // the link of a pipe tells its number
			continue
		}
		d, name := procfs.Pid(p.pid), strconv.Itoa(l.fd)
		f.confirm(string(d)+"/fd/"+name, model.Holder{Pid: p.pid, How: "fd " + name, Write: writes(d, l.fd)})
	}
}

// descriptor takes a descriptor that leads to an object, or to one of several descriptions that have the same link.
func (f *finder) descriptor(pid int, l link, o *model.Object) {
	h := found{id: o.ID, fd: l.fd}
	h.Holder = model.Holder{Pid: pid, Ours: pid == os.Getpid(), How: "fd " + strconv.Itoa(l.fd), Comm: comm(pid)}
	if o.ID.Kind == model.ObjectDescription {
		h.id, h.to = model.ObjectID{}, l.to
	}
	f.found = append(f.found, h)
}

// writes tells whether a descriptor may be written to; one of which that cannot be told may.
func writes(d procfs.Dir, fd int) bool {
	info, err := d.FDInfo(fd)
	return err != nil || info.Flags&unix.O_PATH == 0 && info.Flags&unix.O_ACCMODE != unix.O_RDONLY
}

// mappings looks through those of a process.
func (f *finder) mappings(pid int) {
	if len(f.mapped) == 0 {
		return
	}
	list, err := procfs.Pid(pid).Maps()
	if err != nil {
		return
	}
	for i := range list {
		m := &list[i]
		if !m.HasFile() || !f.mapped[m.Ino] {
			continue
		}
		f.confirm(fmt.Sprintf("/proc/%d/map_files/%s", pid, m.Key()),
			model.Holder{Pid: pid, How: "mapping " + m.Key(), Write: m.Shared && m.Prot&unix.PROT_WRITE != 0})
	}
}

// at returns the inode that a link of /proc leads to.
func at(link string) (id model.ObjectID, ok bool) {
	fd, err := unix.Open(link, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return id, false
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st) != nil {
		return id, false
	}
	return model.Inode(unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino), true
}

// confirm notes a holder if the link leads to one of the objects.
func (f *finder) confirm(link string, h model.Holder) {
	id, ok := at(link)
	if !ok || f.objects[id] == nil {
		return
	}
	h.Comm = comm(h.Pid)
	f.found = append(f.found, found{Holder: h, id: id, link: link})
}

// comm is the name of a process, for people.
func comm(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(b))
}

// lookAgain drops those that have a file no more.
func (f *finder) lookAgain() {
	f.found = slices.DeleteFunc(f.found, func(h found) bool {
		if h.link == "" {
			return false
		}
		now, ok := at(h.link)
		return !ok || now != h.id
	})
}

// descriptions finds out of which description each holder is. kcmp(2) puts all in one order, so that each of theirs is
// searched in ours.
func (f *finder) descriptions() {
	ours := map[string][]*model.Object{}
	for i := range f.found {
		h := &f.found[i]
		if h.to == "" {
			continue
		}
		list, sorted := ours[h.to]
		if !sorted {
			list = slices.Clone(f.links[h.to])
			slices.SortFunc(list, func(a, b *model.Object) int { return compare(a, b.Pid, b.FD) })
			ours[h.to] = list
		}
		at, ok := slices.BinarySearchFunc(list, h, func(o *model.Object, h *found) int { return compare(o, h.Pid, h.fd) })
		if ok && same(list[at], h.Pid, h.fd) {
			h.id = list[at].ID
		}
	}
	f.found = slices.DeleteFunc(f.found, func(h found) bool { return h.id == model.ObjectID{} })
}

// compare orders the descriptions of an object and of a descriptor. What has gone away meanwhile is nobody's.
func compare(o *model.Object, pid, fd int) int {
	n, _ := kcmp(o.Pid, o.FD, pid, fd)
	return n
}

func same(o *model.Object, pid, fd int) bool {
	n, err := kcmp(o.Pid, o.FD, pid, fd)
	return n == 0 && err == nil
}

// kcmp orders descriptions, in an order of the kernel's own: 0 if the two descriptors share one (kcmp(2), KCMP_FILE).
func kcmp(pid1, fd1, pid2, fd2 int) (int, error) {
	const kcmpFile = 0
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid1), uintptr(pid2), kcmpFile, uintptr(fd1), uintptr(fd2), 0)
	if errno != 0 {
		return 0, errno
	}
	return [4]int{0, -1, 1, 1}[r&3], nil
}

// holders is what was found, by object.
func (f *finder) holders() model.Holders {
	all := model.Holders{}
	for _, h := range f.found {
		all[h.id] = append(all[h.id], h.Holder)
	}
	return all
}
