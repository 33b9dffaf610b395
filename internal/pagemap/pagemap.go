// Package pagemap asks the kernel which pages of a process's memory exist and of which sort they are: by the ioctl
// PAGEMAP_SCAN (Linux 6.7), which walks page tables and skips holes, or, where it is missing, by the entries of
// /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst). Both answer the same Query.
//
// The process may run, but then the answer is old before it is read.
package pagemap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// PageSize is the granularity of everything here, bytes.
const PageSize = 4096

// Category is what is known of a page, PAGE_IS_* of include/uapi/linux/fs.h.
type Category uint64

// The categories. Entries of /proc/PID/pagemap cannot tell WPAllowed, Written, PFNZero and Huge.
const (
	WPAllowed Category = 1 << iota // asynchronous write-protect tracking is on
	Written                        // written to since it was write-protected
	// belongs to a file or a shared memory object; not one that a private mapping has made its own
	File
	Present   // in memory
	Swapped   // swapped out, or a marker is in its place (guard, poison, write-protected hole)
	PFNZero   // the zero page
	Huge      // mapped by a huge page
	SoftDirty // written to since soft-dirty bits were cleared, if the kernel tracks them
	Guard     // guard region made with MADV_GUARD_INSTALL; reported since Linux 6.15

	// Exclusive is a page that only this process maps; never the zero page. Only entries tell: PAGEMAP_SCAN does not
	// know it (Linux 4.2).
	Exclusive Category = 1 << 32
)

// Query selects pages. A page is selected if its categories, with those in Invert inverted, include all of All and,
// unless Any is zero, one of Any. Regions carry the categories in Return; neighbours that differ in them are separate
// regions.
type Query struct {
	Invert, All, Any, Return Category

	NoFile bool // no page there is one of a file: PAGEMAP_SCAN is not asked for File
}

// Content selects the pages that a process has for itself: anonymous ones and those of private file mappings that it
// has changed, present or swapped out, but not the zero page. Among anonymous memory alone no page needs to be asked
// whether it is one of a file, for which the kernel looks at its struct page: that is two thirds of the time of a walk.
// Entries tell it anyway, and call the huge zero page one of a file. Regions tell guard regions from pages.
func Content(anon bool) Query {
	return Query{Invert: File | PFNZero, All: File | PFNZero, Any: Present | Swapped, Return: Guard, NoFile: anon}
}

func (q Query) selects(c Category) bool {
	c ^= q.Invert
	return c&q.All == q.All && (q.Any == 0 || c&q.Any != 0)
}

func (q Query) mentions(c Category) bool { return (q.Invert|q.All|q.Any|q.Return)&c != 0 }

// Region is a run of pages with the same categories.
type Region struct {
	Start, End uint64
	Categories Category
}

// Map is one process's open page map. It is not safe for concurrent use.
type Map struct {
	f       *os.File
	noScan  bool // the kernel has no PAGEMAP_SCAN
	noGuard bool // its PAGEMAP_SCAN does not know Guard
	regions []Region
	entries []byte
}

// Open opens the page map of a process; the rights needed are those of ptrace. The Map stays with the memory the
// process has now: after execve(2) it is of no use.
func Open(pid int) (*Map, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, fmt.Errorf("open page map: %w", err)
	}
	return &Map{f: f}, nil
}

// Close closes the map.
func (m *Map) Close() error { return m.f.Close() }

// Fd returns the open file.
func (m *Map) Fd() int { return int(m.f.Fd()) }

// Alive is an error that wraps ESRCH once the memory that was opened is nobody's any more: its last process has ended,
// or executed another program. A scan of memory that is gone may find nothing there and call that success, as a read
// does, so only this tells nothing from no more. Memory that is still somebody's afterwards was not torn down while one
// looked (exit_mmap comes after the last user, fs/proc/task_mmu.c, pagemap_read).
func (m *Map) Alive() error {
	var entry [8]byte // that of the first page; there is one, mapped or not
	for {
		n, err := m.f.ReadAt(entry[:], 0)
		switch {
		case n == len(entry):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil || errors.Is(err, io.EOF):
			return fmt.Errorf("read the page map: the memory is gone: %w", unix.ESRCH)
		}
		return fmt.Errorf("read the page map: %w", err)
	}
}

// UseEntries makes every further Walk read entries, as on a kernel without PAGEMAP_SCAN.
func (m *Map) UseEntries() { m.noScan = true }

// errEntries is for queries that only PAGEMAP_SCAN answers.
var errEntries = errors.New("the kernel has no PAGEMAP_SCAN (Linux 6.7)")

// Walk calls sink with the regions of the pages in [start, end) that q selects, in ascending order. Regions of
// neighbouring mappings may be one. An error of sink ends the walk. If the memory was gone before its end the error
// wraps ESRCH (Alive).
//
// Without PAGEMAP_SCAN, PFNZero and Huge pages are reported as Present only, and asking for WPAllowed or Written is an
// error.
func (m *Map) Walk(start, end uint64, q Query, sink func(Region) error) error {
	if err := m.walk(start, end, q, sink); err != nil {
		return err
	}
	return m.Alive()
}

func (m *Map) walk(start, end uint64, q Query, sink func(Region) error) error {
	if !m.noScan {
		err := m.scan(start, end, q, 0, sink)
		if !errors.Is(err, unix.ENOTTY) {
			return err
		}
		m.noScan = true
	}
	if q.mentions(WPAllowed | Written) {
		return errEntries
	}
	return m.read(start, end, q, sink)
}

// Protect is Walk, and write-protects every page it reports, in one step with looking at it (PM_SCAN_WP_MATCHING): a
// write either comes before, and the page is reported as Written, or makes it Written afterwards. q must ask for
// WPAllowed, so that only mappings registered with a userfaultfd in asynchronous mode are touched. What sink was given
// is protected even if it returns an error.
func (m *Map) Protect(start, end uint64, q Query, sink func(Region) error) error {
	if q.All&WPAllowed == 0 || q.Invert&WPAllowed != 0 {
		return errors.New("to write-protect pages, ask for WPAllowed")
	}
	err := m.scan(start, end, q, scanWPMatching, sink)
	switch {
	case errors.Is(err, unix.ENOTTY):
		return errEntries
	case err != nil:
		return err
	}
	return m.Alive()
}

// scan walks with PAGEMAP_SCAN; ENOTTY before anything was delivered if there is none.
func (m *Map) scan(start, end uint64, q Query, flags uint64, sink func(Region) error) error {
	if m.regions == nil {
		m.regions = make([]Region, 4096)
	}
	if m.noGuard {
		q = q.without(Guard)
	}
	if q.NoFile {
		q = q.without(File)
	}
	for start < end {
		n, walked, err := scan(int(m.f.Fd()), start, end, q, flags, m.regions)
		switch {
		case errors.Is(err, unix.EINVAL) && q.mentions(Guard):
			// Linux 6.7 to 6.14: the category does not exist, guard pages are Swapped.
			m.noGuard = true
			q = q.without(Guard)
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("scan the page map from %#x to %#x: %w", start, end, err)
		}
		for _, r := range m.regions[:n] {
			if err := sink(r); err != nil {
				return err
			}
		}
		switch {
		case n < len(m.regions):
			// It ends early only for want of room. Where it says it ended is not it, up to Linux 6.18 at least: if
			// there were more than 512 regions, it is where its own buffer last was full, and what lies behind that
			// would come once more.
			walked = end
		case n > 0:
			walked = max(walked, m.regions[n-1].End)
		}
		if walked <= start {
			return fmt.Errorf("scan the page map: the kernel stopped at %#x", walked)
		}
		start = walked
	}
	return nil
}

func (q Query) without(c Category) Query {
	return Query{Invert: q.Invert &^ c, All: q.All &^ c, Any: q.Any &^ c, Return: q.Return &^ c, NoFile: q.NoFile}
}

// Bits of an entry of /proc/PID/pagemap.
const (
	entrySoftDirty = 1 << 55
	entryExclusive = 1 << 56
	entryGuard     = 1 << 58
	entryFile      = 1 << 61
	entrySwap      = 1 << 62
	entryPresent   = 1 << 63
)

// entryFrame is where an entry of a present page has the number of its page frame, 0 for readers without CAP_SYS_ADMIN.
const entryFrame = 1<<55 - 1

// common returns the page frame of a present anonymous page that others map too, 0 for every other page.
func common(entry uint64) uint64 {
	if entry&(entryPresent|entryExclusive|entryFile) != entryPresent {
		return 0
	}
	return entry & entryFrame
}

// Frames calls sink with the page frames of those present pages in [start, end) that another process may map too
// (fork(2)), ascending. The zero page is such a one. Without CAP_SYS_ADMIN there are none.
func (m *Map) Frames(start, end uint64, sink func(addr, frame uint64)) error {
	return m.each(start, end, func(at, entry uint64) error {
		if frame := common(entry); frame != 0 {
			sink(at, frame)
		}
		return nil
	})
}

// Common calls sink with the pages in [start, end) for which two processes have the same page frame at the same
// address, in ascending runs. If they run it was so at some moment of the call.
func (m *Map) Common(with *Map, start, end uint64, sink func(start, end uint64) error) error {
	var before []byte
	for start < end {
		a, err := m.load(start, end)
		if err != nil || len(a) == 0 {
			return err
		}
		before = append(before[:0], a...)
		b, err := with.load(start, start+pagesOf(before))
		if err != nil || len(b) == 0 {
			return err
		}
		// The kernel may move a page to another frame at any time, and give the old one to somebody else: what m had
		// before and after with was asked it had meanwhile.
		if a, err = m.load(start, start+pagesOf(b)); err != nil || len(a) == 0 {
			return err
		}
		if err := commonRuns(start, before[:len(a)], a, b[:len(a)], sink); err != nil {
			return err
		}
		start += pagesOf(a)
	}
	return nil
}

// pagesOf is how many bytes of memory entries stand for.
func pagesOf(entries []byte) uint64 { return uint64(len(entries)/8) * PageSize }

// commonRuns calls sink with the runs of pages whose entries have the same frame in all three lists. The first entry is
// that of the page at start.
func commonRuns(start uint64, a, b, c []byte, sink func(start, end uint64) error) error {
	frame := func(list []byte, i int) uint64 { return common(binary.LittleEndian.Uint64(list[i:])) }
	same := func(i int) bool { f := frame(a, i); return f != 0 && f == frame(b, i) && f == frame(c, i) }
	for i := 0; i < len(a); i += 8 {
		first := i
		for i < len(a) && same(i) {
			i += 8
		}
		if first < i {
			if err := sink(start+pagesOf(a[:first]), start+pagesOf(a[:i])); err != nil {
				return err
			}
		}
	}
	return nil
}

func categories(e uint64) Category {
	var c Category
	for _, b := range [...]struct {
		bit uint64
		c   Category
	}{
		{entrySoftDirty, SoftDirty},
		{entryExclusive, Exclusive},
		{entryGuard, Guard},
		{entryFile, File},
		{entrySwap, Swapped},
		{entryPresent, Present},
	} {
		if e&b.bit != 0 {
			c |= b.c
		}
	}
	return c
}

// read walks by reading entries, 8 bytes a page.
func (m *Map) read(start, end uint64, q Query, sink func(Region) error) error {
	var run Region
	flush := func() error {
		if run.End == 0 {
			return nil
		}
		r := run
		run = Region{}
		return sink(r)
	}
	err := m.each(start, end, func(at, entry uint64) error {
		c := categories(entry)
		if !q.selects(c) {
			return nil
		}
		if c &= q.Return; run.End == at && run.Categories == c {
			run.End += PageSize
			return nil
		}
		err := flush()
		run = Region{Start: at, End: at + PageSize, Categories: c}
		return err
	})
	if err != nil {
		return err
	}
	return flush()
}

// each calls sink with the entries of all pages in [start, end), ascending, up to the end of the address space.
func (m *Map) each(start, end uint64, sink func(at, entry uint64) error) error {
	for start < end {
		b, err := m.load(start, end)
		if err != nil || len(b) == 0 {
			return err
		}
		for ; len(b) > 0; b = b[8:] {
			if err := sink(start, binary.LittleEndian.Uint64(b)); err != nil {
				return err
			}
			start += PageSize
		}
	}
	return nil
}

// load reads the entries from start on, as many as fit; none beyond the end of the address space. They are good until
// the next call.
func (m *Map) load(start, end uint64) ([]byte, error) {
	if m.entries == nil {
		m.entries = make([]byte, 64<<10)
	}
	want := min(uint64(len(m.entries)), (end-start)/PageSize*8)
	n, err := m.f.ReadAt(m.entries[:want], int64(start/PageSize*8))
	if n < 8 && err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the page map at %#x: %w", start, err)
	}
	return m.entries[:n&^7], nil
}
