package tracer

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSegmentsModel drives segments with random operations beside an array with one flag word a page, for a few seeds.
func TestSegmentsModel(t *testing.T) {
	const pages = 64
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		var s segments
		var model [pages]uint64
		for range 2000 {
			from := r.Uint64N(pages)
			to := from + r.Uint64N(pages-from) + 1
			flags := r.Uint64N(3) + 1
			switch r.IntN(3) {
			case 0:
				s.put(segment{start: from * pageSize, end: to * pageSize, flags: flags})
				for i := from; i < to; i++ {
					model[i] = flags
				}
			case 1:
				s.remove(from*pageSize, to*pageSize)
				for i := from; i < to; i++ {
					model[i] = 0
				}
			case 2:
				s.change(from*pageSize, to*pageSize, func(uint64) uint64 { return flags })
				for i := from; i < to; i++ {
					if model[i] != 0 {
						model[i] = flags
					}
				}
			}
			checkModel(t, seed, s, model[:])
		}
	}
}

func checkModel(t *testing.T, seed uint64, s segments, model []uint64) {
	t.Helper()
	have := make([]uint64, len(model))
	for i, seg := range s {
		if i > 0 && (s[i-1].end > seg.start || s[i-1].follows(&seg)) {
			t.Fatalf("seed %d: segments %v and %v", seed, s[i-1], seg)
		}
		for p := seg.start / pageSize; p < seg.end/pageSize; p++ {
			have[p] = seg.flags
		}
	}
	if !slices.Equal(have, model) {
		t.Fatalf("seed %d: %v instead of %v", seed, have, model)
	}
	if n := s.normal(); len(n) != len(s) {
		t.Fatalf("seed %d: %d segments, %d in normal form", seed, len(s), len(n))
	}
}

func TestSegmentsOffsets(t *testing.T) {
	var s segments
	s.put(segment{start: 0x1000, end: 0x5000, file: fileKey{1, 7}, off: 0x10000})
	s.remove(0x2000, 0x3000)
	want := segments{
		{start: 0x1000, end: 0x2000, file: fileKey{1, 7}, off: 0x10000},
		{start: 0x3000, end: 0x5000, file: fileKey{1, 7}, off: 0x12000},
	}
	if !slices.Equal(s, want) {
		t.Errorf("%+v", s)
	}
	if parts, whole := s.within(0x3000, 0x4000); !whole || parts[0].off != 0x12000 {
		t.Errorf("%+v %v", parts, whole)
	}
	if _, whole := s.within(0x1000, 0x4000); whole {
		t.Error("a hole was not seen")
	}
}
