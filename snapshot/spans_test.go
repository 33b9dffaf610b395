package snapshot

import (
	"slices"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/dirty"
	"github.com/bpfckpt/bpfckpt/model"
)

// Without PAGEMAP_SCAN (before Linux 6.7) a walk over the whole address space would read 256 GiB of entries.
func TestSpansLeaveOutWideGaps(t *testing.T) {
	vmas := []model.VMA{
		{Start: 0x400000, End: 0x401000},
		{Start: 0x401000, End: 0x402000},
		{Start: 0x402000 + spanGap - 4096, End: 0x402000 + spanGap},
		{Start: 0x7f0000000000, End: 0x7f0000001000},
		{Start: 0x7ffc00000000, End: 0x7ffc00021000},
	}
	want := []dirty.Span{
		{Start: 0x400000, End: 0x402000 + spanGap},
		{Start: 0x7f0000000000, End: 0x7f0000001000},
		{Start: 0x7ffc00000000, End: 0x7ffc00021000},
	}
	if got := walks(vmas); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := walks(nil); got != nil {
		t.Errorf("of nothing: %+v", got)
	}
}

// A walk that need not ask of each page whether it is of a file is for much anonymous memory only.
func TestWalks(t *testing.T) {
	const page, much = 4096, anonWalk
	var vmas []model.VMA
	at := uint64(0x400000)
	add := func(kind model.VMAKind, size uint64) {
		vmas = append(vmas, model.VMA{Start: at, End: at + size, Kind: kind})
		at += size
	}
	add(model.VMAFile, page)
	add(model.VMAAnon, page) // little: walked over with its neighbours
	add(model.VMAFile, page)
	add(model.VMAAnon, much/2) // much in two pieces
	at += page
	add(model.VMAAnon, much/2)
	add(model.VMAShmem, page)
	at += spanGap
	add(model.VMAAnon, much)
	at += spanGap
	add(model.VMAAnon, much)
	got := walks(vmas)
	want := []dirty.Span{
		{Start: vmas[0].Start, End: vmas[2].End},
		{Start: vmas[3].Start, End: vmas[4].End, Anon: true},
		{Start: vmas[5].Start, End: vmas[5].End},
		{Start: vmas[6].Start, End: vmas[6].End, Anon: true},
		{Start: vmas[7].Start, End: vmas[7].End, Anon: true},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
