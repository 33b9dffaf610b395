package plan

import (
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
)

// No limit is asked for above what the descriptors themselves need.
func TestLimitNeed(t *testing.T) {
	rec := &image.Process{FDs: []image.FD{{Num: 0}, {Num: 1}, {Num: 2}, {Num: 19999}}, VMAs: []image.VMA{
		{Start: 0x10000, End: 0x20000, Prot: protRead}, {Start: 0x20000, End: 0x30000, Prot: protRead | protWrite},
	}}
	const own = BootSize + VDSORoom
	for limit, want := range map[int]uint64{limitNofile: 20000, limitAS: own + 0x20000, limitData: own + 0x10000, 0: 0} {
		if have := LimitNeed(rec, limit); have != want {
			t.Errorf("%s: %d, want %d", limitNames[limit], have, want)
		}
	}
}
