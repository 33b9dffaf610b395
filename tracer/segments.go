package tracer

import (
	"slices"
	"sort"
)

// segment is a mapping as the table keeps it: what the kernel keeps as one vm_area_struct, or part of one, or several
// alike.
type segment struct {
	start, end uint64
	flags      uint64  // vm_flags without soft-dirty
	off        uint64  // into the file, bytes; 0 without one
	file       fileKey // zero without one
	name       string  // of a special or named anonymous mapping
}

// fileKey is a file by number. The device number is the kernel's own.
type fileKey struct {
	dev uint32
	ino uint64
}

// segments are ascending and disjoint.
type segments []segment

// at returns the index of the first segment that ends above addr.
func (s segments) at(addr uint64) int {
	return sort.Search(len(s), func(i int) bool { return s[i].end > addr })
}

// follows reports whether b continues a, so that the two could be one.
func (a *segment) follows(b *segment) bool {
	return a.end == b.start && a.flags == b.flags && a.file == b.file && a.name == b.name &&
		(a.file == (fileKey{}) || a.off+(a.end-a.start) == b.off)
}

// cut returns the part of a segment within [from, to).
func (a segment) cut(from, to uint64) segment {
	if from > a.start {
		if a.file != (fileKey{}) {
			a.off += from - a.start
		}
		a.start = from
	}
	a.end = min(a.end, to)
	return a
}

// split makes addr a boundary and returns the index of the first segment that begins at or above it.
func (s *segments) split(addr uint64) int {
	i := s.at(addr)
	if i == len(*s) || (*s)[i].start >= addr {
		return i
	}
	whole := (*s)[i]
	*s = slices.Insert(*s, i+1, whole.cut(addr, whole.end))
	(*s)[i] = whole.cut(whole.start, addr)
	return i + 1
}

// remove takes [from, to) out.
func (s *segments) remove(from, to uint64) {
	if from >= to {
		return
	}
	i := s.split(from)
	j := s.split(to)
	*s = slices.Delete(*s, i, j)
}

// put replaces whatever is in its range by a segment, and joins it with like neighbours.
func (s *segments) put(seg segment) {
	if seg.start >= seg.end {
		return
	}
	s.remove(seg.start, seg.end)
	i := s.at(seg.start)
	*s = slices.Insert(*s, i, seg)
	s.join(i, i)
}

// change rewrites the flags within [from, to).
func (s *segments) change(from, to uint64, f func(flags uint64) uint64) {
	if from >= to {
		return
	}
	i := s.split(from)
	j := s.split(to)
	for k := i; k < j; k++ {
		(*s)[k].flags = f((*s)[k].flags)
	}
	s.join(i, j-1)
}

// join merges segments i to j, and the neighbours on both sides, where they continue one another.
func (s *segments) join(i, j int) {
	for k := min(j+1, len(*s)-1); k >= max(i, 1); k-- {
		if (*s)[k-1].follows(&(*s)[k]) {
			(*s)[k-1].end = (*s)[k].end
			*s = slices.Delete(*s, k, k+1)
		}
	}
}

// within returns copies of what lies in [from, to), cut at its ends, and whether all of it is mapped.
func (s segments) within(from, to uint64) (parts segments, whole bool) {
	at := from
	for i := s.at(from); i < len(s) && s[i].start < to; i++ {
		if s[i].start > at {
			return parts, false
		}
		parts = append(parts, s[i].cut(from, to))
		at = min(s[i].end, to)
	}
	return parts, at >= to
}

// normal returns segments with all like neighbours joined: the kernel cannot join every two mappings that are alike,
// nor does it always keep apart what we do.
func (s segments) normal() segments {
	out := make(segments, 0, len(s))
	for _, seg := range s {
		if n := len(out); n > 0 && out[n-1].follows(&seg) {
			out[n-1].end = seg.end
			continue
		}
		out = append(out, seg)
	}
	return out
}
