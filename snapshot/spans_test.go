package snapshot

import (
	"slices"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
)

// Without PAGEMAP_SCAN (before Linux 6.7) a walk over the whole address space would read 256 GiB of entries.
func TestSpansLeaveOutWideGaps(t *testing.T) {
	vmas := []image.VMA{
		{Start: 0x400000, End: 0x401000},
		{Start: 0x401000, End: 0x402000},
		{Start: 0x402000 + spanGap - 4096, End: 0x402000 + spanGap},
		{Start: 0x7f0000000000, End: 0x7f0000001000},
		{Start: 0x7ffc00000000, End: 0x7ffc00021000},
	}
	want := []image.Range{
		{Start: 0x400000, End: 0x402000 + spanGap},
		{Start: 0x7f0000000000, End: 0x7f0000001000},
		{Start: 0x7ffc00000000, End: 0x7ffc00021000},
	}
	if got := spans(vmas); !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	if got := spans(nil); got != nil {
		t.Errorf("of nothing: %x", got)
	}
}
