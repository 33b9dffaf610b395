package model

import (
	"cmp"
	"slices"
)

// Merge sorts ranges and joins those that overlap or touch, in place.
func Merge(list []Range) []Range {
	slices.SortFunc(list, func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	out := list[:0]
	for _, r := range list {
		if n := len(out); n > 0 && r.Start <= out[n-1].End {
			out[n-1].End = max(out[n-1].End, r.End)
			continue
		}
		out = append(out, r)
	}
	return out
}

// Intersect returns the addresses that are in both lists. Lists are ascending and disjoint, as is the result.
func Intersect(a, b []Range) []Range {
	var out []Range
	for len(a) > 0 && len(b) > 0 {
		if start, end := max(a[0].Start, b[0].Start), min(a[0].End, b[0].End); start < end {
			out = append(out, Range{Start: start, End: end})
		}
		if a[0].End < b[0].End {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}

// Subtract returns the addresses of a that are not in b. Lists are ascending and disjoint, as is the result.
func Subtract(a, b []Range) []Range {
	var out []Range
	for _, r := range a {
		for len(b) > 0 && b[0].End <= r.Start {
			b = b[1:]
		}
		for _, cut := range b {
			if cut.Start >= r.End {
				break
			}
			if r.Start < cut.Start {
				out = append(out, Range{Start: r.Start, End: cut.Start})
			}
			r.Start = max(r.Start, cut.End)
		}
		if r.Start < r.End {
			out = append(out, r)
		}
	}
	return out
}

// Union returns the addresses that are in one of two lists, neighbours joined. Lists are ascending and disjoint.
func Union(a, b []Range) []Range {
	var out []Range
	for len(a) > 0 || len(b) > 0 {
		next := &a
		if len(a) == 0 || len(b) > 0 && b[0].Start < a[0].Start {
			next = &b
		}
		r := (*next)[0]
		*next = (*next)[1:]
		if n := len(out); n > 0 && r.Start <= out[n-1].End {
			out[n-1].End = max(out[n-1].End, r.End)
			continue
		}
		out = append(out, r)
	}
	return out
}
