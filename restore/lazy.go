package restore

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/features"
	"github.com/bpfckpt/bpfckpt/internal/lazy"
	"github.com/bpfckpt/bpfckpt/model"
)

// Lazy is what a restore left to come, of a Result.
type Lazy struct {
	Pages  int // how many pages were missing when the processes began to run
	Server int // pid of the process that brings them; it ends when all are there
}

// laterPages is the memory that a server brings after the processes run.
type laterPages struct {
	j       *journal
	content content
	server  *lazy.Client
	plans   map[*process]*lazyPlan
	res     *Lazy // nil until commit
}

// lazyPlan says of one process what comes later.
type lazyPlan struct {
	areas []model.Range // mappings whose missing pages come later, ascending
	there []model.Range // pages of them that come at once, ascending
	now   []model.Range // all else: what comes at once, with there
	huge  []model.Range // what is to be of huge pages when all is there
}

const (
	sizeofInt        = 4  // futexes, clear_child_tid
	sizeofRobustHead = 24 // struct robust_list_head, include/uapi/linux/futex.h
)

// lazyLeast is from how many pages of content on a mapping is worth a fault.
const lazyLeast = 16

func canBeLazy(v *model.VMA) bool {
	return v.Kind == model.VMAAnon && !v.Shared && len(v.Guards) == 0 &&
		!slices.ContainsFunc(v.Flags, func(name string) bool { f, _ := model.VMAFlagOf(name); return !f.Lazy })
}

// worthIt returns those mappings that can be filled in another way than by writing and have enough content for it,
// ascending, and how many data pages they have.
func worthIt(rec *model.Process, runs []image.Run, can func(*model.VMA) bool) (areas []model.Range, pages uint64) {
	for i := range rec.VMAs {
		v := &rec.VMAs[i]
		for len(runs) > 0 && runs[0].Addr+runs[0].Pages*pageSize <= v.Start {
			runs = runs[1:]
		}
		if !can(v) {
			continue
		}
		if n := dataIn(runs, v); n >= lazyLeast {
			areas, pages = append(areas, model.Range{Start: v.Start, End: v.End}), pages+n
		}
	}
	return areas, pages
}

// planLazy decides what comes later. What the first instructions of each thread and the restore itself use comes at
// once, and so does what the kernel uses at the end of a thread: it waits for no page then (handle_userfault,
// fs/userfaultfd.c), and who waits for the end, or for a mutex of the thread, would wait for ever.
func planLazy(rec *model.Process, runs []image.Run) *lazyPlan {
	pl := &lazyPlan{}
	pl.areas, _ = worthIt(rec, runs, canBeLazy)
	for i := range rec.Threads {
		t := &rec.Threads[i]
		if t.Rseq.Ptr != 0 {
			pl.touch(t.Rseq.Ptr, uint64(t.Rseq.Size))
		}
		if t.ClearChildTID != 0 {
			pl.touch(t.ClearChildTID, uint64(sizeofInt))
		}
		if t.RobustList != 0 {
			pl.touch(t.RobustList, uint64(sizeofRobustHead))
		}
		if rs := t.Restart; rs != nil && rs.Kind == model.RestartWait && rs.Addr != 0 {
			pl.touch(rs.Addr, uint64(sizeofTimespec))
		}
		for _, r := range startsAt(t) {
			pl.touch(r, 1)
		}
	}
	slices.SortFunc(pl.there, func(a, b model.Range) int {
		if a.Start < b.Start {
			return -1
		}
		return 1
	})
	pl.there = slices.CompactFunc(pl.there, func(a, b model.Range) bool { return a == b })
	at := uint64(0)
	later := pl.areas
	for _, t := range pl.there {
		for len(later) > 0 && later[0].End <= t.Start {
			pl.now = append(pl.now, model.Range{Start: at, End: later[0].Start})
			at, later = later[0].End, later[1:]
		}
		pl.now = append(pl.now, model.Range{Start: at, End: max(at, later[0].Start)}, t)
		at = t.End
		later = append([]model.Range{{Start: t.End, End: later[0].End}}, later[1:]...)
	}
	for _, a := range later {
		pl.now = append(pl.now, model.Range{Start: at, End: max(at, a.Start)})
		at = a.End
	}
	pl.now = append(pl.now, model.Range{Start: at, End: arch.Host.AddressEnd})
	pl.now = slices.DeleteFunc(pl.now, func(r model.Range) bool { return r.Start >= r.End })
	return pl
}

// touch makes the pages of a piece of memory come at once, if they are in an area.
func (pl *lazyPlan) touch(addr, size uint64) {
	for at := addr &^ (pageSize - 1); at < addr+size; at += pageSize {
		if slices.ContainsFunc(pl.areas, func(a model.Range) bool { return a.Start <= at && at < a.End }) {
			pl.there = append(pl.there, model.Range{Start: at, End: at + pageSize})
		}
	}
}

// later tells whether a page comes later.
func (pl *lazyPlan) later(page uint64) bool {
	in := func(list []model.Range) bool {
		_, found := slices.BinarySearchFunc(list, page, func(r model.Range, page uint64) int {
			switch {
			case r.End <= page:
				return -1
			case r.Start > page:
				return 1
			}
			return 0
		})
		return found
	}
	return in(pl.areas) && !in(pl.there)
}

// fill brings what comes at once, and keeps what the server is to be told: which blocks are to be of huge pages, too.
func (l *laterPages) fill(p *process, runs []image.Run, blocks []model.Range, f *filler) error {
	pl := planLazy(p.rec, runs)
	pl.huge = blocks
	l.plans[p] = pl
	if err := l.content.load(p.rec.Space, pl.now, f.write); err != nil {
		return err
	}
	return l.bringRobust(p, pl, f)
}

// bringRobust makes come at once what the robust lists of the threads lead to: the mutexes that they hold, which the
// kernel gives free when a thread ends. All else that was to come at once is there.
func (l *laterPages) bringRobust(p *process, pl *lazyPlan, f *filler) error {
	bring := func(addr, size uint64) error {
		for page := addr &^ (pageSize - 1); page < addr+size; page += pageSize {
			if !pl.later(page) {
				continue
			}
			one := model.Range{Start: page, End: page + pageSize}
			if err := l.content.load(p.rec.Space, []model.Range{one}, f.write); err != nil {
				return err
			}
			i, _ := slices.BinarySearchFunc(pl.there, page,
				func(r model.Range, page uint64) int { return cmp.Compare(r.Start, page) })
			pl.there = slices.Insert(pl.there, i, one)
		}
		return nil
	}
	read := func(addr uint64, words []uint64) error {
		b := make([]byte, 8*len(words))
		if err := bring(addr, uint64(len(b))); err != nil {
			return err
		}
		if _, err := f.mem.ReadAt(b, int64(addr)); err != nil {
			return errEndOfList // as the kernel ends there
		}
		for i := range words {
			words[i] = binary.LittleEndian.Uint64(b[8*i:])
		}
		return nil
	}
	for i := range p.rec.Threads {
		head := p.rec.Threads[i].RobustList
		if head == 0 {
			continue
		}
		if err := walkRobust(head, read, bring); err != nil && !errors.Is(err, errEndOfList) {
			return err
		}
	}
	return nil
}

var errEndOfList = errors.New("the robust list ends in memory that is not there")

// walkRobust goes along a robust list as the kernel does when its thread ends (exit_robust_list, kernel/futex/core.c):
// the head has the first entry, the offset from an entry to its futex, and an entry that is being locked or unlocked.
func walkRobust(head uint64, read func(uint64, []uint64) error, bring func(addr, size uint64) error) error {
	const most = 2048 // ROBUST_LIST_LIMIT
	var h [3]uint64
	if err := read(head, h[:]); err != nil {
		return err
	}
	offset := h[1]
	entry := func(at uint64) error { return bring(at+offset, uint64(sizeofInt)) }
	if pending := h[2] &^ 1; pending != 0 {
		if err := entry(pending); err != nil {
			return err
		}
	}
	next := h[:1]
	for n := 0; next[0]&^1 != head && n < most; n++ { // bit 0: of a mutex with priority inheritance
		at := next[0] &^ 1
		if err := read(at, next); err != nil {
			return err
		}
		if err := entry(at); err != nil {
			return err
		}
	}
	return nil
}

// dataIn is how many data pages a mapping has. runs begin at or before it.
func dataIn(runs []image.Run, v *model.VMA) (pages uint64) {
	for _, r := range runs {
		if r.Addr >= v.End {
			break
		}
		if r.Kind == image.Data {
			pages += (min(r.Addr+r.Pages*pageSize, v.End) - max(r.Addr, v.Start)) / pageSize
		}
	}
	return pages
}

// take takes over the server of pages: it ends if the restore fails.
func (l *laterPages) take() error {
	l.j.onUndo(l.server.Abort)
	if f := features.Try("uffd_lazy"); f.Outcome != features.Yes {
		return fault.New(fault.NoLazy, "restore --lazy", "%s", f.Detail).WithRemedy("%s", f.Remedy)
	}
	return nil
}

// arm makes the userfaultfd of a process, registers its areas and hands it to the server. Whatever touches a page of
// them from now on waits for the server.
func (l *laterPages) arm(p *process) error {
	pl := l.plans[p]
	if pl == nil || len(pl.areas) == 0 {
		return nil
	}
	fd, err := makeUffd(p)
	if err != nil {
		return err
	}
	l.j.onEnd(func() { _ = unix.Close(fd) })
	if err := l.j.step("register mappings"); err != nil {
		return err
	}
	if err := lazy.Handshake(fd); err != nil {
		return fault.New(fault.NoLazy, p.object(), "UFFDIO_API: %w", err)
	}
	for _, a := range pl.areas {
		if err := lazy.Register(fd, a.Start, a.End); err != nil {
			return fmt.Errorf("register %#x-%#x of %s: %w", a.Start, a.End, p.object(), err)
		}
	}
	return l.server.Add(lazy.Process{
		Pid: p.pid, Space: p.rec.Space, FD: fd, Areas: pl.areas, There: pl.there,
		Huge: pl.huge,
	})
}

// commit tells the server that the processes are about to run.
func (l *laterPages) commit() error {
	if err := l.j.step("let the server of pages go"); err != nil {
		return err
	}
	pages, err := l.server.Run(l.j.ctx, l.content.img.Info().ID)
	l.res = &Lazy{Pages: pages, Server: l.server.Pid()}
	return err
}
