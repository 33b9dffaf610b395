package restore

import (
	"fmt"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// What comes at once and what comes later are all pages, each once; what threads are about to use comes at once.
func TestPlanLazy(t *testing.T) {
	const mib = 1 << 20
	anon := func(at, size uint64, flags ...string) model.VMA {
		return model.VMA{Start: at, End: at + size, Kind: model.VMAAnon, Flags: append([]string{"rd", "wr"}, flags...)}
	}
	guarded := anon(7*mib, mib)
	guarded.Guards = []model.Range{{Start: 7 * mib, End: 7*mib + pageSize}}
	shared := anon(9*mib, mib)
	shared.Shared = true
	file := anon(11*mib, mib)
	file.Kind = model.VMAFile
	regs := ptrace.Regs{Rsp: 2*mib - 8, FsBase: mib + pageSize}
	rec := &model.Process{
		VMAs: []model.VMA{
			anon(mib, mib), anon(3*mib, mib), anon(5*mib, mib, "lo"), guarded, shared, file,
			anon(13*mib, mib, "gd"), anon(15*mib, 2*mib, "nh"),
		},
		Threads: []model.Thread{{Regs: regs.Bytes(), Rseq: model.Rseq{Ptr: 15*mib + pageSize - 16, Size: 32}}},
	}
	var runs []image.Run
	for i, v := range rec.VMAs {
		n := (v.End - v.Start) / pageSize
		if i == 1 {
			n = lazyLeast - 1
		}
		runs = append(runs, image.Run{Addr: v.Start, Pages: n, Kind: image.Data})
	}
	pl := planLazy(rec, runs)
	if got, want := fmt.Sprintf("%x", pl.areas), "[{100000 200000} {f00000 1100000}]"; got != want {
		t.Errorf("areas %s, want %s", got, want)
	}
	if got, want := fmt.Sprintf("%x", pl.there),
		"[{101000 102000} {1ff000 200000} {f00000 f01000} {f01000 f02000}]"; got != want {
		t.Errorf("there %s, want %s", got, want)
	}
	for page := uint64(0); page < 20*mib; page += pageSize {
		in := func(list []model.Range) (n int) {
			for _, r := range list {
				if page >= r.Start && page < r.End {
					n++
				}
			}
			return n
		}
		if now, later := in(pl.now), in(pl.areas)-in(pl.there); now+later != 1 {
			t.Fatalf("page %#x comes %d times at once and %d times later", page, now, later)
		}
	}
	for i := 1; i < len(pl.now); i++ {
		if pl.now[i].Start < pl.now[i-1].End {
			t.Errorf("not ascending: %x", pl.now)
		}
	}
}
