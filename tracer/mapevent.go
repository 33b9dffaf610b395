package tracer

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
)

const (
	vmShared    = 1 << 3
	vmDontCopy  = 1 << 17
	vmAccount   = 1 << 20
	vmNoReserve = 1 << 21
	vmRandRead  = 1 << 16
	vmSeqRead   = 1 << 15
	vmWipe      = 1 << 25
	vmDontDump  = 1 << 26

	mremapDontUnmap = 4 // MREMAP_DONTUNMAP
	protGrows       = unix.PROT_GROWSDOWN | unix.PROT_GROWSUP
)

func pageDown(v uint64) uint64 { return v &^ (pageSize - 1) }
func pageUp(v uint64) uint64   { return pageDown(v + pageSize - 1) }

// mapChange is a change of mappings.
type mapChange struct {
	bpf.WatchEvMap
	inode bpf.WatchInodeRec // of the file of Vma, if there is one
}

// mapChangeOf reads a record.
func mapChangeOf(b []byte) mapChange {
	if e := recordOf[bpf.WatchEvMapFile](b); e != nil {
		return mapChange{e.Map, e.Inode}
	}
	return mapChange{WatchEvMap: *recordOf[bpf.WatchEvMap](b)}
}

// mapEvent takes a change of mappings, which may come before others that the kernel made before it.
func (tb *table) mapEvent(e *mapChange) {
	m := tb.mms[e.Mm]
	if m == nil {
		return // its group is still to be read
	}
	e.TurnFirst, e.TurnLast = m.near(e.TurnFirst), m.near(e.TurnLast)
	if saw(e) {
		tb.noteFile(e)
	}
	g := tb.groups[int(e.Head.Pid)]
	if counted(e) && (g == nil || m.users > 1 || len(g.threads) > 1) {
		e.Turns = 0 // whose write sequence the last was cannot be told
		tb.contended = tb.contended || g != nil
	}
	if !m.stale && e.TurnFirst == m.seq+1 && len(m.pending) == 0 {
		tb.mapNext(m, e)
		return
	}
	i, _ := slices.BinarySearchFunc(m.pending, e.TurnFirst,
		func(p *mapChange, seq uint64) int { return compare(p.TurnFirst, seq) })
	m.pending = slices.Insert(m.pending, i, new(*e))
	tb.mapPending(m)
}

func saw(e *mapChange) bool     { return e.Bits&uint32(bpf.WatchMapBitMAP_SEEN) != 0 }
func counted(e *mapChange) bool { return e.Bits&uint32(bpf.WatchMapBitMAP_COUNTED) != 0 }

// mapPending applies what is in order now. While the mappings are to be read again, all waits.
func (tb *table) mapPending(m *memory) {
	n := 0
	for n < len(m.pending) && !m.stale {
		e := m.pending[n]
		switch {
		case e.TurnLast <= m.seq: // in what was read
		case e.TurnFirst > m.seq+1 && !counted(e):
			if m.gapSince.IsZero() {
				m.gapSince = time.Now()
			}
			m.pending = slices.Delete(m.pending, 0, n)
			return
		default:
			tb.mapNext(m, e)
		}
		n++
	}
	m.pending = slices.Delete(m.pending, 0, n)
	if len(m.pending) == 0 {
		m.gapSince = time.Time{}
	}
}

// mapNext applies the change that comes next. What it cannot follow makes the mappings stale.
func (tb *table) mapNext(m *memory, e *mapChange) {
	own := e.Turns == 1 && e.TurnFirst == e.TurnLast && e.TurnFirst == m.seq+1 && (!counted(e) || tookLock(e))
	m.seq = e.TurnLast
	m.version++
	if !own || !tb.mapCall(m, e) {
		m.stale = true
		clear(m.known) // among what we do not follow is what changes the flags of mappings to come
	}
}

// lockingAdvices are the advices that madvise takes the lock of the mm for writing for (mm/madvise.c, get_lock_mode),
// in every release.
var lockingAdvices = []uint64{
	unix.MADV_NORMAL, unix.MADV_RANDOM, unix.MADV_SEQUENTIAL, unix.MADV_DONTFORK, unix.MADV_DOFORK, unix.MADV_MERGEABLE,
	unix.MADV_UNMERGEABLE,
	unix.MADV_HUGEPAGE, unix.MADV_NOHUGEPAGE, unix.MADV_DONTDUMP, unix.MADV_DODUMP, unix.MADV_WIPEONFORK,
	unix.MADV_KEEPONFORK,
}

// tookLock reports whether a call had the lock for certain. If there was one write sequence since the last event, of a
// process with one thread, it is the call's then; otherwise it may as well be that of a stack that grew before a call
// that did not take the lock.
func tookLock(e *mapChange) bool {
	if e.Head.Ret < 0 && e.Head.Ret >= -4095 {
		return false
	}
	switch e.Head.Nr {
	case unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MREMAP, unix.SYS_BRK:
		return true
	case unix.SYS_MPROTECT:
		return e.Args[1] != 0
	case unix.SYS_MADVISE:
		return e.Args[1] != 0 && slices.Contains(lockingAdvices, e.Args[2])
	}
	return false
}

// mapCall follows one system call; false if it cannot.
func (tb *table) mapCall(m *memory, e *mapChange) bool {
	a, failed := e.Args, e.Head.Ret < 0 && e.Head.Ret >= -4095
	switch e.Head.Nr {
	case unix.SYS_MMAP:
		return tb.mmap(m, e, failed)
	case unix.SYS_MUNMAP:
		if failed {
			return false
		}
		m.segs.remove(a[0], a[0]+pageUp(a[1]))
		return true
	case unix.SYS_MPROTECT:
		return !failed && a[2]&(protGrows|protMachine) == 0 && tb.mprotect(m, e)
	case unix.SYS_BRK:
		return tb.brk(m, e)
	case unix.SYS_MREMAP:
		if failed { // it may have cut the old range, or cleared the new one
			return a[2] >= a[1] && a[3]&unix.MREMAP_FIXED == 0
		}
		return tb.mremap(m, e)
	case unix.SYS_MADVISE:
		return !failed && tb.madvise(m, e)
	}
	return false // mlock, mbind, shmat ...
}

// seen returns the segment that the probe saw over the whole of [from, to).
func (tb *table) seen(e *mapChange, from, to uint64) (segment, bool) {
	v := &e.Vma
	if !saw(e) || v.Start > from || v.End < to {
		return segment{}, false
	}
	s := segment{start: from, end: to, flags: v.Flags &^ vmSoftDirt}
	if v.File != 0 {
		s.file = fileKey{e.inode.Dev, e.inode.Ino}
		s.off = v.Pgoff*pageSize + (from - v.Start)
	}
	return s, true
}

// noteFile remembers the file of a mapping, with the path of the descriptor it was made of.
func (tb *table) noteFile(e *mapChange) {
	if e.Vma.File == 0 {
		return
	}
	key := fileKey{e.inode.Dev, e.inode.Ino}
	if _, known := tb.mapped[key]; known {
		return
	}
	f := mappedFile{inode: bpf.IterInodeRec(e.inode)}
	if o := tb.files[e.Vma.File]; o != nil && o.inode.Dev == key.dev && o.inode.Ino == key.ino {
		f.path = o.resolved
	}
	tb.mapped[key] = f
}

func (tb *table) mmap(m *memory, e *mapChange, failed bool) bool {
	a := e.Args
	if failed {
		return a[3]&unix.MAP_FIXED == 0 // one that fails late may have unmapped what was there
	}
	from := uint64(e.Head.Ret)
	to := from + pageUp(a[1])
	plain := a[3]&(unix.MAP_ANONYMOUS|unix.MAP_PRIVATE) == unix.MAP_ANONYMOUS|unix.MAP_PRIVATE
	kind := mapKind{a[2], a[3] &^ (unix.MAP_FIXED | unix.MAP_FIXED_NOREPLACE)}
	if s, ok := tb.seen(e, from, to); ok {
		if plain {
			m.known[kind] = s.flags
		}
		m.segs.put(s)
		return true
	}
	flags, ok := m.known[kind]
	if !plain || !ok {
		return false
	}
	m.segs.put(segment{start: from, end: to, flags: flags})
	return true
}

func (tb *table) mprotect(m *memory, e *mapChange) bool {
	from, to := e.Args[0], e.Args[0]+pageUp(e.Args[1])
	if from == to {
		return true
	}
	if s, ok := tb.seen(e, from, to); ok {
		m.segs.change(from, to, func(uint64) uint64 { return s.flags })
		return true
	}
	parts, whole := m.segs.within(from, to)
	prot := e.Args[2] & (unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC)
	for _, p := range parts {
		// Whether such a mapping stays accounted depends on whether it was ever touched (mm/mprotect.c,
		// mprotect_fixup).
		if prot&vmWrite == 0 && p.flags&vmAccount != 0 && p.file == (fileKey{}) {
			return false
		}
	}
	if !whole {
		return false
	}
	m.segs.change(from, to, func(old uint64) uint64 {
		flags := old&^(vmRead|vmWrite|vmExec|vmMachine) | prot
		if prot&vmWrite != 0 && old&(vmAccount|vmWrite|vmHugetlb|vmShared|vmNoReserve) == 0 {
			flags |= vmAccount
		}
		return flags
	})
	return true
}

func (tb *table) brk(m *memory, e *mapChange) bool {
	old, now := m.brk, uint64(e.Head.Ret)
	m.brk = now
	from, to := pageUp(old), pageUp(now)
	switch {
	case to < from:
		m.segs.remove(to, from)
	case to > from:
		if s, ok := tb.seen(e, from, to); ok {
			m.segs.put(s)
			return true
		}
		i := m.segs.at(from - 1)
		if i == len(m.segs) || m.segs[i].end != from || m.segs[i].file != (fileKey{}) {
			return false
		}
		m.segs.put(segment{start: from, end: to, flags: m.segs[i].flags})
	}
	return true
}

func (tb *table) mremap(m *memory, e *mapChange) bool {
	old, oldLen, newLen, now := e.Args[0], pageUp(e.Args[1]), pageUp(e.Args[2]), uint64(e.Head.Ret)
	if oldLen == 0 || e.Args[3]&mremapDontUnmap != 0 {
		return false
	}
	keep := min(oldLen, newLen)
	parts, whole := m.segs.within(old, old+keep)
	if !whole || newLen > oldLen && len(parts.normal()) != 1 {
		return false
	}
	m.segs.remove(old, old+oldLen)
	if now != old {
		m.segs.remove(now, now+newLen)
	}
	for _, p := range parts {
		p.start, p.end = p.start-old+now, p.end-old+now
		if newLen > oldLen && p.end == now+keep {
			p.end = now + newLen
		}
		m.segs.put(p)
	}
	return true
}

// adviceFlags are the advices that only set and clear flags (mm/madvise.c, madvise_vma_behavior).
var adviceFlags = map[uint64]struct{ clear, set uint64 }{
	unix.MADV_NORMAL:        {clear: vmRandRead | vmSeqRead},
	unix.MADV_SEQUENTIAL:    {clear: vmRandRead, set: vmSeqRead},
	unix.MADV_RANDOM:        {clear: vmSeqRead, set: vmRandRead},
	unix.MADV_DONTFORK:      {set: vmDontCopy},
	unix.MADV_DOFORK:        {clear: vmDontCopy},
	unix.MADV_WIPEONFORK:    {set: vmWipe},
	unix.MADV_KEEPONFORK:    {clear: vmWipe},
	unix.MADV_DONTDUMP:      {set: vmDontDump},
	unix.MADV_DODUMP:        {clear: vmDontDump},
	unix.MADV_WILLNEED:      {},
	unix.MADV_DONTNEED:      {},
	unix.MADV_FREE:          {},
	unix.MADV_COLD:          {},
	unix.MADV_PAGEOUT:       {},
	unix.MADV_REMOVE:        {},
	unix.MADV_POPULATE_READ: {},
}

func (tb *table) madvise(m *memory, e *mapChange) bool {
	from, to := e.Args[0], e.Args[0]+pageUp(e.Args[1])
	if s, ok := tb.seen(e, from, to); ok && from < to {
		m.segs.change(from, to, func(uint64) uint64 { return s.flags })
		return true
	}
	advice, ok := adviceFlags[e.Args[2]]
	if !ok {
		return false
	}
	m.segs.change(from, to, func(flags uint64) uint64 { return flags&^advice.clear | advice.set })
	return true
}
