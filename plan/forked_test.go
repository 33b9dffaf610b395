package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// memory is what the pages of a process are: a version for each page that is mapped, 0 for one without content.
type memory map[uint64]int

// lineage is a tree whose processes have come by their memory in some way: by fork, and by changing it.
type lineage struct {
	st  *model.State
	mem map[model.Space]memory
}

// samePages compares two memories page by page. Versions are equal only where they were inherited.
func (l *lineage) samePages(a, b model.Space) []model.Range {
	var out []model.Range
	for at := uint64(0x100000); at < 0x200000; at += model.PageSize {
		if v := l.mem[a][at]; v == 0 || v != l.mem[b][at] {
			continue
		}
		if n := len(out); n > 0 && out[n-1].End == at {
			out[n-1].End += model.PageSize
		} else {
			out = append(out, model.Range{Start: at, End: at + model.PageSize})
		}
	}
	return out
}

// randomLineage makes a tree of n processes, each forked by one before it, with mappings that differ here and there.
func randomLineage(rng *rand.Rand, n int) *lineage {
	l := &lineage{st: &model.State{Root: 100}, mem: map[model.Space]memory{}}
	version := 0
	for i := range n {
		p := model.Process{
			Pid: 100 + i, PPid: 1, Pgid: 100, Sid: 100, ExitSignal: 17, Space: model.Space(i + 1),
			Start: uint64(i),
		}
		mem := memory{}
		if i > 0 {
			parent := rng.IntN(i)
			p.PPid = 100 + parent
			for at, v := range l.mem[model.Space(parent+1)] {
				mem[at] = v
			}
		}
		for range rng.IntN(40) {
			version++
			mem[0x100000+uint64(rng.IntN(256))*model.PageSize] = version * rng.IntN(2)
		}
		for at := uint64(0x100000); at < 0x200000; {
			size := uint64(1+rng.IntN(64)) * model.PageSize
			v := model.VMA{Start: at, End: min(at+size, 0x200000), Prot: 3, Kind: model.VMAAnon}
			if rng.IntN(8) == 0 {
				v.Flags = []string{"nr"}
			}
			if rng.IntN(4) > 0 {
				p.VMAs = append(p.VMAs, v)
			} else { // unmapped
				for a := v.Start; a < v.End; a += model.PageSize {
					delete(mem, a)
				}
			}
			at += size
		}
		l.mem[p.Space] = mem
		l.st.Processes = append(l.st.Processes, p)
		// Its parent writes on.
		if i > 0 {
			theirs := l.mem[model.Space(p.PPid-99)]
			for range rng.IntN(20) {
				at := 0x100000 + uint64(rng.IntN(256))*model.PageSize
				if theirs[at] != 0 {
					version++
					theirs[at] = version
				}
			}
		}
	}
	return l
}

// A restore that follows the plan, in whatever way a tree has come by its memory, ends with everything in place: what
// is said to be there is what the process has, and what else it would be born with is said to have to go.
func TestHeritage(t *testing.T) {
	shared := 0
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 7))
		l := randomLineage(rng, 2+rng.IntN(8))
		births, err := MakeBirths(l.st)
		if err != nil {
			t.Fatal(err)
		}
		h := MakeHeritage(births, l.samePages)
		made := map[int]memory{} // what a process being made has in its bequests
		for _, s := range births.Steps {
			switch s.Do {
			case ActFork:
				made[s.Who] = memory{}
				for at, v := range made[s.By] {
					made[s.Who][at] = v
				}
			case ActFill:
				if err := h.playFill(l, made[s.Who], s.Who); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		}
		for i := range l.st.Processes {
			n, err := h.playKeep(l, made[i], i)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			shared += n
		}
	}
	if shared < 1000 {
		t.Errorf("only %d pages are shared", shared)
	}
}

// playFill does what a restore does with the fills of a process.
func (h *Heritage) playFill(l *lineage, have memory, who int) error {
	var room []model.Range
	for _, n := range h.BornWith(who) {
		room = append(room, h.Bequests[n].Range)
	}
	for _, f := range h.Fills[who] {
		if !slices.Equal(model.Intersect(f.Parts, room), f.Parts) {
			return fmt.Errorf("process %d fills %x, and is born with %x", who, f.Parts, room)
		}
		for _, r := range f.Parts {
			for at := r.Start; at < r.End; at += model.PageSize {
				have[at] = l.mem[f.Space][at]
			}
		}
	}
	return nil
}

// playKeep compares what a process is born with with what it has to have, and returns how many pages are in place.
func (h *Heritage) playKeep(l *lineage, have memory, who int) (pages int, err error) {
	rec := &l.st.Processes[who]
	inPlace, stale := h.InPlace[who], h.Stale[who]
	for _, k := range h.Kept[who] {
		v := &rec.VMAs[k.VMA]
		for at := v.Start; at < v.End; at += model.PageSize {
			page := []model.Range{{Start: at, End: at + model.PageSize}}
			here, goes := len(model.Intersect(inPlace, page)) > 0, len(model.Intersect(stale, page)) > 0
			switch want := l.mem[rec.Space][at]; {
			case here && (goes || have[at] != want || want == 0):
				return 0, fmt.Errorf("page %#x of process %d is said to be in place: %d instead of %d", at, who, have[at],
					want)
			case !here && !goes && have[at] != 0:
				return 0, fmt.Errorf("page %#x of process %d has %d, and nobody says so", at, who, have[at])
			case here:
				pages++
			}
		}
	}
	return pages, nil
}
