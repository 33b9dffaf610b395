package restore

import (
	"fmt"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/model"
)

// Whole blocks of memory for which huge pages were asked for are to be huge; what has gaps, or is other memory, is not.
func TestHugeBlocks(t *testing.T) {
	const mib = 1 << 20
	anon := func(at, size uint64, flags ...string) model.VMA {
		return model.VMA{Start: at, End: at + size, Kind: model.VMAAnon, Flags: append([]string{"rd", "wr"}, flags...)}
	}
	rec := &model.Process{VMAs: []model.VMA{
		anon(mib, 8*mib, "hg"), anon(10*mib, 4*mib), anon(16*mib, 6*mib, "hg"),
		anon(24*mib, mib, "hg"),
	}}
	data := func(at, end uint64) image.Run {
		return image.Run{Addr: at, Pages: (end - at) / pageSize, Kind: image.Data}
	}
	zeros := data(3*mib, 4*mib)
	zeros.Kind = image.Zero
	runs := []image.Run{
		data(mib, 3*mib), zeros, data(4*mib, 7*mib), // 2 to 6 are whole; 6 to 8 lack a part
		data(10*mib, 14*mib),                                // nobody asked
		data(16*mib, 18*mib), data(18*mib+pageSize, 22*mib), // 16 to 18, 20 to 22
		data(24*mib, 25*mib), // too small
	}
	if got, want := fmt.Sprintf("%x", hugeBlocks(rec, runs, 2*mib)),
		"[{200000 600000} {1000000 1200000} {1400000 1600000}]"; got != want {
		t.Errorf("blocks %s, want %s", got, want)
	}
	if got := hugeBlocks(rec, runs, 0); got != nil {
		t.Errorf("without huge pages: %x", got)
	}
	if got, want := fmt.Sprintf("%x", outside([]model.Range{{Start: 0, End: mib}, {Start: 2 * mib, End: 3 * mib}})),
		fmt.Sprintf("[{100000 200000} {300000 %x}]", arch.Host.AddressEnd); got != want {
		t.Errorf("outside %s, want %s", got, want)
	}
}
