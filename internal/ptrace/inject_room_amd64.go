package ptrace

import (
	"encoding/binary"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

const (
	pageSize = 4096
	redZone  = 128 // below the stack pointer, used by leaf functions (System V ABI, AMD64 supplement, 3.2.2)
	// spareGap is how far the unused part of the main stack must be from the deepest stack pointer in it. Should we die
	// while a thread without a stack of its own is on loan there, the main thread would have to grow by as much within
	// microseconds to meet it.
	spareGap = 32 << 10
)

// place finds size bytes of dead memory, 64-byte aligned. The first choice is the thread's own stack below the red
// zone, which is what a signal would use; it is only trusted to be a stack that can take a signal when it is the main
// stack of the leader or one with an ELF thread control block above, as libc makes them. Goroutine and coroutine stacks
// are neither: their threads get an unused part of the main stack, as far from its user as possible.
func (in *Injector) place(th *Thread, r *Regs, size uint64) (uint64, error) {
	l := &loan{th: th}
	if m := in.mapOf(r.Rsp); m != nil {
		if base, ok := roomBelow(th, r, m, size); ok {
			return base, nil
		}
	}
	m, low, owned := in.mainStack()
	if m == nil {
		return 0, l.noRoom("the stack at %#x is not one that a libc made, and there is no main stack to use instead",
			r.Rsp)
	}
	size = (size + pageSize - 1) &^ (pageSize - 1)
	base, err := unused(in.pid, m.Start, low, size)
	switch {
	case err != nil:
		return 0, l.noRoom("%v", err)
	case base != 0:
		return base, nil
	case owned && m.Start+size <= low && readable(in.pid, m.Start, m.Start+size):
		return m.Start, nil
	}
	return 0, l.noRoom("the stack at %#x is full or not one that a libc made, and the main stack has no unused part of %d bytes", r.Rsp, size)
}

// roomBelow is the first choice of place, in the mapping that the stack pointer is in.
func roomBelow(th *Thread, r *Regs, m *procfs.Map, size uint64) (uint64, bool) {
	if !trusted(th, r, m) {
		return 0, false
	}
	base := (r.Rsp - redZone - size) &^ (xstateAlign - 1)
	return base, base < r.Rsp && base >= m.Start && readable(th.Pid, base, r.Rsp)
}

// readable reports whether the pages from start to end can be used by the process itself: none is a guard.
func readable(pid int, start, end uint64) bool {
	var b [1]byte
	for at := start; at < end; at = at&^(pageSize-1) + pageSize {
		if _, err := ReadMemory(pid, []Range{{at, 1}}, b[:]); err != nil {
			return false
		}
	}
	return true
}

func (in *Injector) mapOf(addr uint64) *procfs.Map {
	lo, hi := 0, len(in.maps)
	for lo < hi {
		mid := (lo + hi) / 2
		if in.maps[mid].End <= addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(in.maps) || in.maps[lo].Start > addr {
		return nil
	}
	return &in.maps[lo]
}

// trusted reports whether m is a stack of the thread itself, with nothing but its own frames around the stack pointer.
func trusted(th *Thread, r *Regs, m *procfs.Map) bool {
	if m.Prot&(unix.PROT_READ|unix.PROT_WRITE) != unix.PROT_READ|unix.PROT_WRITE || m.Shared || m.HasFile() {
		return false
	}
	if m.Name == "[stack]" {
		return th.Tid == th.Pid
	}
	// The thread control block begins with its own address (System V ABI, AMD64, ELF thread-local storage); glibc and
	// musl put it above the stack, with a guard below the stack.
	if r.FsBase <= r.Rsp || r.FsBase+8 > m.End {
		return false
	}
	var self [8]byte
	if _, err := ReadMemory(th.Pid, []Range{{r.FsBase, 8}}, self[:]); err != nil ||
		binary.LittleEndian.Uint64(self[:]) != r.FsBase {
		return false
	}
	guarded, err := guardBetween(th.Pid, r.Rsp, r.FsBase)
	return err == nil && !guarded
}

// mainStack returns the [stack] mapping and how far up it is free: a gap below the lowest stack pointer in it. owned
// tells whether the main thread is on it; then what is below is dead whatever it holds.
func (in *Injector) mainStack() (m *procfs.Map, free uint64, owned bool) {
	for i := range in.maps {
		if in.maps[i].Name == "[stack]" {
			m = &in.maps[i]
		}
	}
	if m == nil || m.Prot&unix.PROT_WRITE == 0 {
		return nil, 0, false
	}
	free = m.End
	for _, th := range in.g.Of(in.pid) {
		var r Regs
		if _, err := getRegset(th.Tid, regsetPRStatus, r.Bytes()); err != nil {
			return nil, 0, false
		}
		if r.Rsp >= m.Start && r.Rsp <= m.End {
			free = min(free, r.Rsp)
			owned = owned || th.Tid == th.Pid
		}
	}
	if free-m.Start < spareGap {
		return nil, 0, false
	}
	return m, free - spareGap, owned
}

// Bits of a pagemap entry (Documentation/admin-guide/mm/pagemap.rst).
const (
	pagemapPresent = 1 << 63
	pagemapSwapped = 1 << 62
	pagemapGuard   = 1 << 58 // Linux 6.15
)

// readPagemap returns the entries of the pages from start to end.
func readPagemap(pid int, start, end uint64) ([]uint64, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/pagemap")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, (end-start)/pageSize*8)
	if _, err := f.ReadAt(buf, int64(start/pageSize*8)); err != nil {
		return nil, err
	}
	out := make([]uint64, len(buf)/8)
	for i := range out {
		out[i] = binary.LittleEndian.Uint64(buf[8*i:])
	}
	return out, nil
}

// unused returns the address of the lowest size bytes between start and end that no page backs, or pages with nothing
// in them, 0 if there are none. What we used before is such: it held nothing and got that back.
func unused(pid int, start, end, size uint64) (uint64, error) {
	end &^= pageSize - 1
	if end <= start {
		return 0, nil
	}
	entries, err := readPagemap(pid, start, end)
	if err != nil {
		return 0, err
	}
	run := uint64(0)
	for i, e := range entries {
		at := start + uint64(i)*pageSize
		if e&pagemapGuard != 0 || e&(pagemapPresent|pagemapSwapped) != 0 && !isZero(pid, at) {
			run = 0
			continue
		}
		if run += pageSize; run >= size {
			return at + pageSize - run, nil
		}
	}
	return 0, nil
}

func isZero(pid int, page uint64) bool {
	var b [pageSize]byte
	_, err := ReadMemory(pid, []Range{{page, pageSize}}, b[:])
	return err == nil && b == [pageSize]byte{}
}

// maxStackScan bounds the search for guard pages; a thread deeper in its stack than this is not trusted.
const maxStackScan = 64 << 20

// guardBetween reports whether a guard page (MADV_GUARD_INSTALL) lies between two addresses: then they are not in one
// stack.
func guardBetween(pid int, low, high uint64) (bool, error) {
	if high-low > maxStackScan {
		return true, nil
	}
	entries, err := readPagemap(pid, low&^(pageSize-1), (high+pageSize-1)&^(pageSize-1))
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if e&pagemapGuard != 0 {
			return true, nil
		}
	}
	return false, nil
}

// rseqSection is the restartable sequence (rseq(2)) that a thread was stopped in. The kernel aborts it when the thread
// next returns to user mode, at the address it is at then; so while the thread is on loan it must find it again, or be
// sent to its abort handler.
type rseqSection struct {
	inside bool
	at     uint64 // address of rseq_cs in the thread's struct rseq
	cs     uint64 // its value
	abort  uint64
}

// Offsets in struct rseq and struct rseq_cs (include/uapi/linux/rseq.h).
const (
	rseqOffCS        = 8
	sizeofRseqCS     = 32
	rseqCSStart      = 8
	rseqCSPostCommit = 16
	rseqCSAbort      = 24
)

func readRseqSection(th *Thread, rip uint64) (rseqSection, error) {
	reg, err := getRseq(th.Tid)
	if err != nil || reg.Ptr == 0 {
		return rseqSection{}, err
	}
	s := rseqSection{at: reg.Ptr + rseqOffCS}
	var word [8]byte
	if _, err := ReadMemory(th.Pid, []Range{{s.at, 8}}, word[:]); err != nil {
		return s, err
	}
	if s.cs = binary.LittleEndian.Uint64(word[:]); s.cs == 0 {
		return s, nil
	}
	var cs [sizeofRseqCS]byte
	if _, err := ReadMemory(th.Pid, []Range{{s.cs, len(cs)}}, cs[:]); err != nil {
		return s, err
	}
	start := binary.LittleEndian.Uint64(cs[rseqCSStart:])
	s.inside = rip-start < binary.LittleEndian.Uint64(cs[rseqCSPostCommit:])
	s.abort = binary.LittleEndian.Uint64(cs[rseqCSAbort:])
	return s, nil
}

// writeBack sets rseq_cs again if the kernel cleared it because the borrowed registers were outside the section.
func (s *rseqSection) writeBack(th *Thread) error {
	if !s.inside {
		return nil
	}
	var word [8]byte
	binary.LittleEndian.PutUint64(word[:], s.cs)
	_, err := WriteMemory(th.Pid, []Range{{s.at, 8}}, word[:])
	return err
}
