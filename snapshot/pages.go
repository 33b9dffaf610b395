package snapshot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/dirty"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// origin is where the content of a space is read: the memory of a process, or a file that holds a shared object.
type origin struct {
	space model.Space
	pid   int      // of a process
	file  *os.File // of an object
	name  string   // for messages

	parent model.Space // what to compare it with in the parent image, 0 for nothing
}

// part is a run of pages to copy.
type part struct {
	addr   uint64
	size   int
	forced bool       // to be read through /proc/PID/mem: not readable by the process itself, or shared since fork(2)
	code   *model.VMA // the mapping, if it is one of code that may hold breakpoints
}

// job is what one worker copies at a time: parts of one origin, into one buffer.
type job struct {
	from  *origin
	parts []part
	size  int
	buf   []byte // nil if the arena has no room: then it is copied and written at once
}

// Bounds of a job: small enough to spread over workers and to keep a deadline, large enough for one process_vm_readv
// call.
const (
	jobBytes = 4 << 20
	jobParts = 512
)

// planner collects the jobs of a snapshot.
type planner struct {
	jobs  []job
	bytes int64
}

// add plans a run of pages, in pieces that fit into jobs. Runs of neighbouring mappings become one: the fewer parts,
// the faster the copy.
func (pl *planner) add(from *origin, p part) {
	pl.bytes += int64(p.size)
	for p.size > 0 {
		j := pl.room(from)
		piece := p
		piece.size = min(p.size, jobBytes-j.size)
		if last := len(j.parts) - 1; last >= 0 && j.parts[last].code == p.code && j.parts[last].forced == p.forced &&
			j.parts[last].addr+uint64(j.parts[last].size) == p.addr {
			j.parts[last].size += piece.size
		} else {
			j.parts = append(j.parts, piece)
		}
		j.size += piece.size
		p.addr += uint64(piece.size)
		p.size -= piece.size
	}
}

// addPrivate plans a run of private pages, of which those in shared are others' too since fork(2). shared is ascending
// and disjoint.
func (pl *planner) addPrivate(from *origin, p part, shared []model.Range) {
	if p.forced || len(shared) == 0 {
		pl.add(from, p)
		return
	}
	whole := model.Range{Start: p.addr, End: p.addr + uint64(p.size)}
	piece := func(start, end uint64, forced bool) {
		if start < end {
			q := p
			q.addr, q.size, q.forced = start, int(end-start), forced
			pl.add(from, q)
		}
	}
	at := whole.Start
	for _, r := range clip(shared, whole) {
		piece(at, r.Start, false)
		piece(r.Start, r.End, true)
		at = r.End
	}
	piece(at, whole.End, false)
}

// room returns the last job if it takes more parts of this origin, else a new one.
func (pl *planner) room(from *origin) *job {
	if n := len(pl.jobs); n > 0 {
		j := &pl.jobs[n-1]
		if j.from == from && j.size < jobBytes && len(j.parts) < jobParts {
			return j
		}
	}
	pl.jobs = append(pl.jobs, job{from: from})
	return &pl.jobs[len(pl.jobs)-1]
}

// spanGap is the width of unmapped space, bytes, from which it is worth a walk of its own to leave it out. PAGEMAP_SCAN
// skips holes by itself, but without it a walk reads eight bytes for each page, mapped or not, and an address space has
// 2^35 of them.
const spanGap = 4 << 20

// anonWalk is how much anonymous memory, bytes, is worth a walk of its own: see pagemap.Content. To walk over as many
// pages that are not there takes less than a call.
const anonWalk = 4 << 20

// walks are the parts of the address space that mappings lie in, without the wide gaps between them, and cut where much
// anonymous memory begins and ends.
func walks(vmas []model.VMA) []dirty.Span {
	var out []dirty.Span
	// add appends a span, or joins it to the one before.
	add := func(s dirty.Span) {
		if n := len(out); n > 0 && out[n-1].Anon == s.Anon && s.Start-out[n-1].End < spanGap {
			out[n-1].End = s.End
			return
		}
		out = append(out, s)
	}
	for i := 0; i < len(vmas); {
		s := dirty.Span{Start: vmas[i].Start, End: vmas[i].End, Anon: vmas[i].Kind == model.VMAAnon}
		for i++; i < len(vmas) && s.Anon && vmas[i].Kind == model.VMAAnon && vmas[i].Start-s.End < spanGap; i++ {
			s.End = vmas[i].End
		}
		s.Anon = s.Anon && s.End-s.Start >= anonWalk
		add(s)
	}
	return out
}

func memoryFault(pid int, err error) error {
	return fault.New(fault.PageRead, pidName(pid), "%w", err)
}

// holdsContent tells whether private pages of a mapping belong into the image. Those of a droppable one (MAP_DROPPABLE,
// Linux 6.11) do not, nor what the user wants left out: the kernel may drop them at any time, and it is where
// vgetrandom(2) keeps random numbers that must not come twice.
func holdsContent(v *model.VMA) bool {
	if v.Excluded {
		return false
	}
	switch v.Kind {
	case model.VMAAnon, model.VMAFile, model.VMAShmem:
		return !v.Has("dp")
	}
	return false
}

// cutter cuts ascending page runs at the borders of ascending mappings.
type cutter struct {
	vmas []model.VMA
	next int // first mapping that does not end before the current run
	sink func(v *model.VMA, start, end uint64, guard bool)
}

// cut hands each part of [start, end) that lies in a mapping to the sink.
func (c *cutter) cut(start, end uint64, guard bool) {
	for c.next < len(c.vmas) && c.vmas[c.next].End <= start {
		c.next++
	}
	for i := c.next; i < len(c.vmas) && c.vmas[i].Start < end; i++ {
		v := &c.vmas[i]
		c.sink(v, max(start, v.Start), min(end, v.End), guard)
	}
}

// addFile plans the content of an object of size bytes, without its holes.
func (pl *planner) addFile(from *origin, size int64) error {
	return dataRuns(from.file, size, func(start, end int64) error {
		pl.add(from, part{addr: uint64(start), size: int(end - start)})
		return nil
	})
}

// dataRuns calls sink with the page-aligned runs of a file that are not holes (lseek(2), SEEK_DATA), ascending and
// disjoint.
func dataRuns(f *os.File, size int64, sink func(start, end int64) error) error {
	fd := int(f.Fd())
	for at := int64(0); at < size; {
		start, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil // only holes follow
		}
		if err != nil {
			return fmt.Errorf("find data after %d in %s: %w", at, f.Name(), err)
		}
		end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("find a hole after %d in %s: %w", start, f.Name(), err)
		}
		start = max(at, start&^(model.PageSize-1)) // blocks may be smaller than pages
		end = int64(roundUp(int(min(end, size))))
		if err := sink(start, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}
