package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/carry"
	"github.com/bpfckpt/bpfckpt/internal/dirty"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// precopyFrom is how much memory a tree must have for pre-copy to pay, bytes: a copy of less is a few milliseconds, and
// getting a process ready stops it for one.
const precopyFrom = 32 << 20

// precopyPerMapping is how much more it must be for each mapping, bytes: what is copied in the two microseconds that it
// takes to see whether a mapping is still tracked.
const precopyPerMapping = 16 << 10

// tracking is what a session does with dirty page tracking. Without a tracker all of it is empty.
type tracking struct {
	tr     dirty.Tracker
	own    bool   // made for this snapshot: nothing outlives it
	base   string // id of the image whose pages may be kept unseen, "" for none
	take   []int  // processes of which pre-copy copies while they run
	spaces map[int]model.Space
	covers map[int]bool         // processes whose clean pages are in the image already: copied, or kept from the base
	skip   map[int][]dirty.Span // what pre-copy leaves alone because the user wants it left out
	owed   map[int][]dirty.Span // pages that are clean and could not be read when they were armed
	parent map[int]former       // what the parent image has, by pid
	// The image that the root was restored from, "" if it was not or nobody knows.
	restored string
	// What Dirty reported as written, with what lies close between.
	written map[int][]dirty.Span
	tops    map[int]uint64            // the end of what is in the image of a process before the freeze
	inodes  map[[2]uint64]model.Space // the same of objects, by device and inode
	rest    int64                     // bytes written during the last round of pre-copy
	aside   int64                     // bytes in running processes that are not tracked
}

// former is a process in the parent image.
type former struct {
	space    model.Space
	ranges   []dirty.Span // where its mappings were
	excluded []dirty.Span // what was left out of the image
}

// chooseTracking decides how writes are tracked, and which image the new one continues.
func (s *session) chooseTracking(live []int) (parent string, err error) {
	t := &s.track
	t.spaces, t.covers, t.owed = map[int]model.Space{}, map[int]bool{}, map[int][]dirty.Span{}
	t.skip = map[int][]dirty.Span{}
	t.tops, t.written = map[int]uint64{}, map[int][]dirty.Span{}
	if parent, t.restored, err = s.tree.parentImage(s.opts.Dir, s.st.Kernel.BootID); err != nil {
		return "", err
	}
	if t.tr = s.opts.Tracker; t.tr != nil {
		s.res.Tracking = t.tr.Name()
		dir, id := t.tr.Base()
		if abs, e := filepath.Abs(s.opts.Dir); s.opts.Incremental && e == nil && abs == dir && id != "" {
			t.base, parent = id, id
		}
		// From the first page that is armed on, what is clean says nothing about the base.
		t.tr.SetBase("", "")
		t.tr.Keep(live)
		return parent, nil
	}
	if s.opts.Incremental {
		s.res.Tracking = dirty.Compare
	}
	if pays, err := s.opts.precopyPays(live); err != nil || !pays {
		return parent, err
	}
	// Soft-dirty bits are one for each page, and may be somebody else's. A userfaultfd is ours alone.
	if tr, err := dirty.New(dirty.UffdWP); err == nil {
		t.tr, t.own = tr, true
		s.res.Tracking = tr.Name()
	}
	return parent, nil
}

// precopyPays reports whether a tree has so much memory that copying it while it runs shortens the freeze.
func (o *Options) precopyPays(live []int) (bool, error) {
	if !o.Precopy {
		return false, nil
	}
	need, err := estimate(live)
	if err != nil || need < precopyFrom {
		return false, err
	}
	least := int64(precopyFrom)
	for _, pid := range live {
		maps, err := procfs.Pid(pid).Maps()
		if err != nil && !isGone(err) {
			return false, err
		}
		least += int64(len(maps)) * precopyPerMapping
	}
	return need >= least, nil
}

// parentImage finds the image in the store that a new one continues: the last one of the root, or the one that it
// was restored from, which it names as well, "" if there is none or nobody knows.
func (t *tree) parentImage(dir, boot string) (parent, restored string, err error) {
	id := t.ids[t.pid]
	root := image.Root{Boot: boot, PidNS: id.NS, Pid: id.Pid, Start: id.Start}
	rec, _, err := carry.Get(t.view, id)
	if err != nil {
		return "", "", err
	}
	parent, _, err = image.ParentOf(dir, image.Origin{Root: root, Restored: rec.Image})
	return parent, rec.Image, err
}

// explainNoParent notes why an incremental image begins a row of its own in a store that has images.
func explainNoParent(r *Result, dir string, pid int, restored string) {
	images, err := image.List(dir)
	damaged := err != nil && !errors.Is(err, &fault.Error{Code: fault.StoreNotFound})
	from := "nothing is recorded of an image that it was restored from"
	if restored != "" {
		from = fmt.Sprintf("%s, which it was restored from, is not there", restored)
	}
	if n := len(images); n > 0 {
		r.note("the image is a full one and begins a row of its own: neither %s nor any other in the store is of %s, and %s",
			images[n-1].ID, pidName(pid), from)
	}
	if damaged {
		r.note("images of the store that cannot be read are not continued: %v", err)
	}
}

// create begins the image. A base that is no longer in the store makes it a full one.
func (s *session) create(parent string) error {
	o := image.WriteOptions{Name: s.opts.Name, Parent: parent, Level: s.opts.Compress, Accept: s.accept}
	if s.opts.Incremental && parent == "" {
		explainNoParent(s.res, s.opts.Dir, s.tree.pid, s.track.restored)
	}
	w, err := image.Create(s.opts.Dir, o)
	if err != nil && s.track.base != "" && parent == s.track.base &&
		errors.Is(err, &fault.Error{Code: fault.StoreNoImage}) {
		s.res.note("the image is a full one: %s, which it would have continued, is no longer in the store", parent)
		s.track.base = ""
		if o.Parent, _, err = s.tree.parentImage(s.opts.Dir, s.st.Kernel.BootID); err != nil {
			return err
		}
		if o.Parent == "" {
			explainNoParent(s.res, s.opts.Dir, s.tree.pid, s.track.restored)
		}
		w, err = image.Create(s.opts.Dir, o)
	}
	if err != nil {
		return err
	}
	s.writer = w
	if o.Parent == "" || !s.opts.Incremental {
		return nil
	}
	st, err := w.Parent()
	if err == nil {
		s.track.compare(st)
	}
	return err
}

// compare notes which spaces of the parent, st, the image is compared with.
func (t *tracking) compare(st *model.State) {
	t.parent, t.inodes = map[int]former{}, map[[2]uint64]model.Space{}
	for i := range st.Processes {
		if p := &st.Processes[i]; !p.Zombie {
			t.parent[p.Pid] = former{p.Space, walks(p.VMAs), excludedIn(p)}
		}
	}
	for _, o := range st.Shmems {
		t.inodes[[2]uint64{o.Dev, o.Ino}] = o.Space
	}
	for _, o := range slices.Concat(st.Unlinked, st.Named) {
		t.inodes[[2]uint64{o.Dev, o.Ino}] = o.Space
	}
}

// attach gets the tracker ready for every process of the tree; those that are not yet are stopped for it, a millisecond
// or so.
func (t *tracking) attach(ctx context.Context, tree *tree, live []int) error {
	tr := t.tr
	ready := func(pid int) bool {
		followed, why := tr.Serves(pid)
		return followed || why != ""
	}
	if tr.Name() != dirty.UffdWP || !slices.ContainsFunc(live, func(pid int) bool { return !ready(pid) }) {
		return nil
	}
	if err := tree.freeze(ctx); err != nil {
		return err
	}
	err := t.attachStopped(tree)
	return errors.Join(err, tree.letGo())
}

// attachStopped is attach for a tree that stands still.
func (t *tracking) attachStopped(tree *tree) error {
	for _, pid := range tree.pids {
		if err := t.tr.Attach(tree.group, pid); err != nil {
			return err
		}
	}
	return nil
}

// space returns the space of a process that has none yet.
func (t *tracking) space(pid int) model.Space {
	if t.spaces[pid] == 0 {
		t.spaces[pid] = model.Space(len(t.spaces) + 1)
	}
	return t.spaces[pid]
}

// keep takes every page of a process from the base, if there is one that has it. What has changed since is written, or
// discarded, on top.
func (t *tracking) keep(w *image.Writer, pid int) (kept bool, err error) {
	from, ok := t.parent[pid]
	followed, _ := t.tr.Serves(pid)
	if t.base == "" || !ok || !followed {
		return false, nil
	}
	for _, r := range from.ranges {
		if err := w.KeepFrom(t.space(pid), r.Start, (r.End-r.Start)/model.PageSize, from.space,
			r.Start); err != nil {
			return false, err
		}
		t.tops[pid] = max(t.tops[pid], r.End)
	}
	t.covers[pid] = true
	t.owed[pid] = append(t.owed[pid], from.excluded...) // clean, and yet not in the image
	return true, nil
}

// excludedIn are the mappings of a process whose content is not in its image.
func excludedIn(p *model.Process) []dirty.Span {
	var out []dirty.Span
	for i := range p.VMAs {
		if v := &p.VMAs[i]; v.Excluded {
			out = append(out, dirty.Span{Start: v.Start, End: v.End})
		}
	}
	return out
}

// rearm makes everything clean for the next image, at the end of the freeze.
func (t *tracking) rearm(tree *tree) error {
	if t.tr == nil || t.own {
		return nil
	}
	if err := t.attachStopped(tree); err != nil {
		return err
	}
	for _, pid := range tree.pids {
		if err := t.tr.Arm(pid, t.written[pid]); err != nil {
			return gone(pid, err)
		}
	}
	return nil
}

// settle remembers the published image as what later ones of a tree that goes on can keep pages of.
func (t *tracking) settle(info image.Info, killed bool) {
	if t.tr == nil || t.own || killed {
		return
	}
	if abs, err := filepath.Abs(info.Dir); err == nil {
		t.tr.SetBase(abs, info.ID)
	}
}

// close gives back a tracker of our own.
func (t *tracking) close() {
	if t.own && t.tr != nil {
		_ = t.tr.Close() // descriptors only
		t.tr = nil
	}
}

// direct reports whether a process has files open for direct input and output. The device writes to the pages of such a
// read while no page table entry says so: a page armed meanwhile would stay clean. Under the freeze no such read is
// under way, because its thread cannot be stopped before it ends.
func direct(pid int) bool {
	d := procfs.Pid(pid)
	fds, err := d.FDs()
	if err != nil {
		return true // nothing is known
	}
	for _, fd := range fds {
		if path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); err != nil ||
			!strings.HasPrefix(path, "/") {
			continue // closed meanwhile; or a pipe, where the flag means packets
		}
		if info, err := d.FDInfo(fd); err == nil && info.Flags&unix.O_DIRECT != 0 {
			return true
		}
	}
	return false
}

// withoutTracking takes the mark of our own tracking, or that of a watch, off the mappings: a restored process is not
// tracked.
func withoutTracking(st *model.State) {
	for i := range st.Processes {
		for j := range st.Processes[i].VMAs {
			v := &st.Processes[i].VMAs[j]
			v.Flags = slices.DeleteFunc(slices.Clone(v.Flags), func(f string) bool { return f == "uw" })
		}
	}
}
