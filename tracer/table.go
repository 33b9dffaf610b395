package tracer

import (
	"maps"
	"time"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// part is a part of a thread group's state that has a version of its own and is read again by itself.
type statePart uint32

// The parts.
const (
	partMaps statePart = 1 << iota
	partFDs
	partRest // handlers, limits, threads, directories: all that one pass over the threads tells
	partAll  = partMaps | partFDs | partRest
)

// table is the shadow of the kernel state of all thread groups that a watch follows. One goroutine owns it.
type table struct {
	groups map[int]*group
	mms    map[uint64]*memory     // by identity of the mm
	files  map[uint64]*openFile   // by identity of the struct file
	mapped map[fileKey]mappedFile // files that are, or were, mapped

	seqBits   int  // how many the number of a write sequence has
	contended bool // threads share a memory that they change, and whose write sequences nobody sees
}

func newTable() *table {
	return &table{
		groups: map[int]*group{}, mms: map[uint64]*memory{}, files: map[uint64]*openFile{},
		mapped:  map[fileKey]mappedFile{},
		seqBits: 64,
	}
}

// group is one thread group.
type group struct {
	pid, ppid int
	comm      string
	mm        uint64
	fds       map[int]slot
	actions   [64]bpf.IterActionRec
	limits    [16]model.Limit
	umask     uint32
	cwd       string
	threads   map[int]*thread
	libs      []model.Library
	inotify   map[watchKey]string
	stale     statePart // partFDs, partRest: what must be read again
	lost      uint64    // records of it that were lost, as far as that has been taken care of
	versions  Versions
}

// Versions count the changes of each part of a thread group's state.
type Versions struct {
	Maps  uint64 `json:"maps"`
	FDs   uint64 `json:"fds"`
	Rest  uint64 `json:"rest"`  // handlers, limits, threads, directories
	Tasks uint64 `json:"tasks"` // threads and children
}

type thread struct {
	mask     uint64
	altStack model.AltStack
}

// slot is one descriptor.
type slot struct {
	file    uint64 // identity
	cloexec bool
}

type watchKey struct {
	file uint64 // identity of the inotify instance
	wd   int
}

// openFile is an open file description.
type openFile struct {
	refs     int // slots that name it
	flags    uint32
	mode     uint32 // FMODE_*
	inode    bpf.IterInodeRec
	given    string // as the program named it, "" if that was not seen
	resolved string // where that led
	how      uint32 // flags of open(2)
	create   uint32 // mode of open(2)
}

// mappedFile is what is known of a file that is mapped.
type mappedFile struct {
	inode bpf.IterInodeRec
	path  string
}

// memory is the mappings of an mm.
type memory struct {
	id      uint64
	users   int // groups
	segs    segments
	brk     uint64
	seq     uint64 // write sequence of the lock of the mm: all changes up to it are in segs
	seqBits int
	stale   bool

	pending  []*mapChange // of later write sequences, ascending
	gapSince time.Time    // when the first of pending arrived without its predecessor
	tried    time.Time    // when it was last read again
	known    map[mapKind]uint64

	built         []model.VMA // what the last pass made
	builtSeq      uint64
	builtPid      int
	builtBlockers fault.List
	version       uint64
}

// mapKind is what decides the flags of an anonymous mapping.
type mapKind struct{ prot, flags uint64 }

// near completes the number of a write sequence of which only the lower bits are known: it is the one closest to the
// last that was taken in.
func (m *memory) near(seq uint64) uint64 {
	unknown := 64 - m.seqBits
	return m.seq + uint64(int64((seq-m.seq)<<unknown)>>unknown)
}

func (tb *table) group(pid int) *group {
	g := tb.groups[pid]
	if g == nil {
		g = &group{
			pid: pid, fds: map[int]slot{}, threads: map[int]*thread{}, inotify: map[watchKey]string{},
			stale: partAll,
		}
		tb.groups[pid] = g
	}
	return g
}

// use makes mm the memory of g.
func (tb *table) use(g *group, mm uint64) *memory {
	m := tb.mms[mm]
	if m == nil {
		m = &memory{id: mm, stale: true, known: map[mapKind]uint64{}, seqBits: tb.seqBits}
		if tb.seqBits < 64 {
			m.seq = 1 << 32 // so that the numbers near it are none below zero
		}
		tb.mms[mm] = m
	}
	if g.mm != mm {
		tb.leave(g)
		g.mm = mm
		m.users++
	}
	return m
}

// leave ends g's use of its memory.
func (tb *table) leave(g *group) {
	if m := tb.mms[g.mm]; m != nil {
		if m.users--; m.users <= 0 {
			delete(tb.mms, g.mm)
		}
	}
	g.mm = 0
}

// drop forgets a thread group.
func (tb *table) drop(pid int) {
	g := tb.groups[pid]
	if g == nil {
		return
	}
	for fd := range g.fds {
		tb.closeSlot(g, fd)
	}
	tb.leave(g)
	delete(tb.groups, pid)
}

// setSlot puts a description into a slot.
func (tb *table) setSlot(g *group, fd int, s slot) *openFile {
	if old, ok := g.fds[fd]; ok {
		if old.file == s.file {
			g.fds[fd] = s
			return tb.files[s.file]
		}
		tb.closeSlot(g, fd)
	}
	f := tb.files[s.file]
	if f == nil {
		f = &openFile{}
		tb.files[s.file] = f
	}
	f.refs++
	g.fds[fd] = s
	return f
}

func (tb *table) closeSlot(g *group, fd int) {
	s, ok := g.fds[fd]
	if !ok {
		return
	}
	delete(g.fds, fd)
	f := tb.files[s.file]
	if f == nil {
		return
	}
	if f.refs--; f.refs > 0 {
		return
	}
	delete(tb.files, s.file)
	maps.DeleteFunc(g.inotify, func(k watchKey, _ string) bool { return k.file == s.file })
}

// pruneMapped forgets files that nothing maps any more.
func (tb *table) pruneMapped() {
	live := map[fileKey]bool{}
	for _, m := range tb.mms {
		if m.stale {
			return
		}
		for i := range m.segs {
			live[m.segs[i].file] = true
		}
		for _, e := range m.pending {
			live[fileKey{e.inode.Dev, e.inode.Ino}] = true
		}
	}
	maps.DeleteFunc(tb.mapped, func(key fileKey, _ mappedFile) bool { return !live[key] })
}
