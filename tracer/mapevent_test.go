package tracer

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
)

// turnCase is a memory before an event, and what the event may make of it.
type turnCase struct {
	name      string
	threads   int    // of the process
	seq       uint64 // the last that was taken in
	event     bpf.WatchEvMap
	want      uint64 // the last that is taken in afterwards
	stale     bool
	applied   bool // the mapping is gone
	contended bool
	pending   int
}

// TestWhoseWriteSequence applies to a table single changes of mappings, those the kernel has only counted and those
// that were seen.
func TestWhoseWriteSequence(t *testing.T) {
	const page, kernelEnd = 0x10000, 1<<kernelSeqBits - 1
	event := func(nr uint16, seq uint64, bits bpf.WatchMapBit, args ...uint64) bpf.WatchEvMap {
		e := bpf.WatchEvMap{Mm: 1, TurnFirst: seq, TurnLast: seq, Turns: 1, Bits: uint32(bits)}
		e.Head.Nr, e.Head.Pid = nr, 7
		copy(e.Args[:], args)
		return e
	}
	const count, exact = bpf.WatchMapBitMAP_COUNTED, bpf.WatchMapBit(0)
	munmap := func(seq uint64, bits bpf.WatchMapBit) bpf.WatchEvMap {
		return event(unix.SYS_MUNMAP, seq, bits, page, pageSize)
	}
	failed := munmap(6, count)
	failed.Head.Ret = -int64(unix.EINVAL)
	two := munmap(6, exact)
	two.TurnLast, two.Turns = 7, 2
	for _, c := range []turnCase{
		{
			name: "the next write sequence, of the only thread", threads: 1, seq: 5, event: munmap(6, count), want: 6,
			applied: true,
		},
		{
			name: "of one of two threads", threads: 2, seq: 5, event: munmap(6, count), want: 6, stale: true,
			contended: true,
		},
		{name: "one of two, seen", threads: 2, seq: 5, event: munmap(6, exact), want: 6, applied: true},
		{
			name: "a write sequence before it that nobody told of", threads: 1, seq: 4, event: munmap(6, count), want: 6,
			stale: true,
		},
		{name: "the same, seen: another may come", threads: 2, seq: 4, event: munmap(6, exact), want: 4, pending: 1},
		{name: "what was read has it", threads: 1, seq: 6, event: munmap(6, count), want: 6},
		{name: "a call that failed", threads: 1, seq: 5, event: failed, want: 6, stale: true},
		{
			name: "advice that does not take the lock", threads: 1, seq: 5,
			event: event(unix.SYS_MADVISE, 6, count, page, pageSize, unix.MADV_DONTNEED), want: 6, stale: true,
		},
		{
			name: "advice that takes one", threads: 1, seq: 5,
			event: event(unix.SYS_MADVISE, 6, count, page, pageSize, unix.MADV_DONTFORK), want: 6,
		},
		{
			name: "advice about nothing", threads: 1, seq: 5,
			event: event(unix.SYS_MADVISE, 6, count, page, 0, unix.MADV_DONTFORK), want: 6, stale: true,
		},
		{
			name: "protection of nothing", threads: 1, seq: 5, event: event(unix.SYS_MPROTECT, 6, count, page, 0),
			want: 6, stale: true,
		},
		{
			name: "a lock on memory", threads: 1, seq: 5, event: event(unix.SYS_MLOCK, 6, count, page, pageSize),
			want:  6,
			stale: true,
		},
		{name: "two write sequences", threads: 1, seq: 5, event: two, want: 7, stale: true},
		{
			name: "the kernel's count begins again", threads: 1, seq: 1<<33 + kernelEnd, event: munmap(0, count),
			want: 1<<33 + kernelEnd + 1, applied: true,
		},
		{
			name: "an old one after that", threads: 1, seq: 1<<33 + kernelEnd + 1, event: munmap(kernelEnd, count),
			want: 1<<33 + kernelEnd + 1,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			tb := newTable()
			tb.seqBits = kernelSeqBits
			g := tb.group(7)
			for tid := range c.threads {
				g.thread(7 + tid)
			}
			m := tb.use(g, 1)
			m.seq, m.stale = c.seq, false
			m.segs.put(segment{start: page, end: page + pageSize, flags: vmRead})
			tb.mapEvent(&mapChange{WatchEvMap: c.event})
			if m.seq != c.want || m.stale != c.stale || (len(m.segs) == 0) != c.applied ||
				tb.contended != c.contended || len(m.pending) != c.pending {
				t.Errorf("write sequence %d, stale %v, %d mappings, contended %v, %d wait; want %+v", m.seq, m.stale,
					len(m.segs), tb.contended, len(m.pending), c)
			}
		})
	}
}

// protected is a table with mappings, and an event that changes one of them, the n-th time.
func protected() (tb *table, event func(n uint64) mapChange) {
	const from = 0x7f0000100000
	tb = newTable()
	g := tb.group(7)
	g.thread(7)
	m := tb.use(g, 1)
	m.stale = false
	for i := range uint64(40) {
		m.segs.put(segment{start: 0x7f0000000000 + i<<16, end: 0x7f0000000000 + i<<16 + 3*pageSize, flags: vmRead})
	}
	return tb, func(n uint64) mapChange {
		e := mapChange{WatchEvMap: bpf.WatchEvMap{
			Mm: 1, Turns: 1, TurnFirst: n, TurnLast: n,
			Bits: uint32(bpf.WatchMapBitMAP_SEEN),
		}}
		e.Head.Nr, e.Head.Pid = unix.SYS_MPROTECT, 7
		e.Args = [6]uint64{from + pageSize, pageSize, vmRead | n%2*vmWrite}
		e.Vma = bpf.WatchVmaState{Start: from + pageSize, End: from + 2*pageSize, Flags: e.Args[2]}
		return e
	}
}

// TestMapEventAllocatesNothing applies changes of mappings: the collector would take its time from watched programs.
func TestMapEventAllocatesNothing(t *testing.T) {
	tb, event := protected()
	n := uint64(0)
	if allocs := testing.AllocsPerRun(100, func() {
		n++
		e := event(n)
		tb.mapEvent(&e)
	}); allocs > 0 {
		t.Errorf("%v allocations for each", allocs)
	}
	if m := tb.mms[1]; m.stale || m.seq != n {
		t.Errorf("write sequence %d of %d, stale %v", m.seq, n, m.stale)
	}
}

// BenchmarkMapEvent applies changes of mappings: each is time that a watched program on the same core goes without.
func BenchmarkMapEvent(b *testing.B) {
	tb, event := protected()
	n := uint64(0)
	for b.Loop() {
		n++
		e := event(n)
		tb.mapEvent(&e)
	}
}
