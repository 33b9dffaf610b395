package restore

import (
	"encoding/binary"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/stub"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

func procOf(pid, ppid, sid int, vmas ...model.VMA) model.Process {
	return model.Process{ExitSignal: 17, Pid: pid, PPid: ppid, Pgid: pid, Sid: sid, VMAs: vmas}
}

// The plan keeps the boot area away from the stub.
func TestStubPage(t *testing.T) {
	if stub.CodeAt&^(pageSize-1) != plan.StubPage {
		t.Errorf("the stub is at %#x, not in the page %#x", uint64(stub.CodeAt), uint64(plan.StubPage))
	}
}

func TestFitXState(t *testing.T) {
	state := func(size int, used, offered uint64) []byte {
		b := make([]byte, size)
		binary.LittleEndian.PutUint64(b[464:], offered)
		binary.LittleEndian.PutUint64(b[512:], used)
		return b
	}
	fit, err := fitXState(state(832, 7, 7), state(2688, 0, 0xe7))
	if err != nil || len(fit) != 2688 || binary.LittleEndian.Uint64(fit[464:]) != 0xe7 ||
		binary.LittleEndian.Uint64(fit[512:]) != 7 {
		t.Errorf("smaller state: %d bytes, %v", len(fit), err)
	}
	if _, err := fitXState(state(2688, 0xe7, 0xe7), state(832, 0, 7)); err == nil {
		t.Error("AVX-512 in use was accepted by a CPU without")
	}
	if fit, err := fitXState(state(2688, 7, 0xe7), state(832, 0, 7)); err != nil || len(fit) != 832 {
		t.Errorf("AVX-512 not in use: %d bytes, %v", len(fit), err)
	}
	if _, err := fitXState(nil, state(832, 0, 7)); err == nil {
		t.Error("an empty state was accepted")
	}
}

func TestVMALookup(t *testing.T) {
	rec := procOf(1, 0, 0, model.VMA{Start: 0x1000, End: 0x3000}, model.VMA{Start: 0x3000, End: 0x4000},
		model.VMA{Start: 0x8000, End: 0x9000})
	f := filler{p: &process{rec: &rec}}
	for addr, want := range map[uint64]int{
		0x1000: 0, 0x2fff: 0, 0x3000: 1, 0x4000: -1, 0xfff: -1, 0x8fff: 2,
		0x9000: -1,
	} {
		have := -1
		if v := f.vmaAt(addr); v != nil {
			for i := range rec.VMAs {
				if v == &rec.VMAs[i] {
					have = i
				}
			}
		}
		if have != want {
			t.Errorf("%#x is in mapping %d, not %d", addr, have, want)
		}
	}
}
