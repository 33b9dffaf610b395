package snapshot

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// Whatever the order in which pages were given away and written, those that an owner has written are due, and those that
// the image does not have unchanged under the freeze are lost.
func TestDueAndLost(t *testing.T) {
	const pages, child = 64, 9
	owners := []int{1, 2}
	at := func(i int) model.Range {
		return model.Range{Start: uint64(i) * model.PageSize, End: uint64(i+1) * model.PageSize}
	}
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 1))
		f := &forked{given: map[int]shares{}, clean: map[int][]model.Range{}}
		owner := map[int]int{} // page -> whose it is said to be
		for range 3 {
			f.wrote = map[int][]model.Range{}
			wrote := map[[2]int]bool{}
			for range rng.IntN(40) {
				i, of := rng.IntN(pages), owners[rng.IntN(2)]
				f.wrote[of] = append(f.wrote[of], at(i))
				wrote[[2]int{of, i}] = true
			}
			var want []model.Range
			for i := range pages {
				if wrote[[2]int{owner[i], i}] {
					want = append(want, at(i))
					delete(owner, i)
				}
			}
			if got := f.due(child); !slices.Equal(got, model.Merge(want)) {
				t.Fatalf("seed %d: due %x, want %x", seed, got, want)
			}
			for range rng.IntN(40) {
				i, of := rng.IntN(pages), owners[rng.IntN(2)]
				if owner[i] == 0 {
					owner[i] = of
					f.give(child, kinSpan{at(i), of})
				}
			}
		}
		var want []model.Range
		for i := range pages {
			of := owner[i]
			if of == 0 {
				continue
			}
			if rng.IntN(2) == 0 {
				f.clean[of] = append(f.clean[of], at(i))
			} else {
				want = append(want, at(i))
			}
		}
		if got := f.lost(child); !slices.Equal(got, model.Merge(want)) {
			t.Fatalf("seed %d: lost %x, want %x", seed, got, want)
		}
	}
}
