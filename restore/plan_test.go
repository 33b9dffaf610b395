package restore

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/stub"
	"github.com/bpfckpt/bpfckpt/plan"
)

func procOf(pid, ppid, sid int, vmas ...image.VMA) image.Process {
	return image.Process{ExitSignal: 17, Pid: pid, PPid: ppid, Pgid: pid, Sid: sid, VMAs: vmas}
}

func TestPlanRefusesWhatNoForkCanMake(t *testing.T) {
	for name, c := range map[string]struct {
		procs []image.Process
		say   string
	}{
		"foreign session": {[]image.Process{procOf(10, 1, 5), procOf(11, 10, 12), procOf(12, 11, 12)}, "never was in"},
		"no parent":       {[]image.Process{procOf(10, 1, 5), procOf(11, 99, 5)}, "does not come before it"},
		"root not first":  {[]image.Process{procOf(11, 10, 5)}, "parent 10 does not come before"},
		"empty":           {nil, "root process 10 is not the first"},
	} {
		_, err := makePlan(&image.State{Root: 10, Processes: c.procs})
		if err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The plan keeps the boot area away from the stub.
func TestStubPage(t *testing.T) {
	if stub.CodeAt&^(pageSize-1) != plan.StubPage {
		t.Errorf("the stub is at %#x, not in the page %#x", uint64(stub.CodeAt), uint64(plan.StubPage))
	}
}

func TestParsePolicy(t *testing.T) {
	for text, want := range map[string]struct {
		mode uint64
		mask uint64
	}{
		"bind:0":                {2, 1},
		"bind=static:0-1":       {2 | 1<<15, 3},
		"interleave:0,2":        {3, 5},
		"prefer:1":              {1, 2},
		"local":                 {4, 0},
		"prefer (many):0":       {5, 1},
		"weighted interleave:0": {6, 1},
		"bind=relative:3":       {2 | 1<<14, 8},
	} {
		mode, nodes, err := parsePolicy(text)
		if err != nil || mode != want.mode {
			t.Errorf("%s: mode %d, %v", text, mode, err)
		}
		if want.mask != 0 && binary.LittleEndian.Uint64(nodes) != want.mask {
			t.Errorf("%s: nodes % x", text, nodes[:8])
		}
	}
	for _, bad := range []string{"best:0", "bind=odd:0", "bind:x", "bind:3-1", "bind:99999"} {
		if _, _, err := parsePolicy(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
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
	if err != nil || len(fit) != 2688 || binary.LittleEndian.Uint64(fit[464:]) != 0xe7 || binary.LittleEndian.Uint64(fit[512:]) != 7 {
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
	rec := procOf(1, 0, 0, image.VMA{Start: 0x1000, End: 0x3000}, image.VMA{Start: 0x3000, End: 0x4000}, image.VMA{Start: 0x8000, End: 0x9000})
	f := filler{p: &process{rec: &rec}}
	for addr, want := range map[uint64]int{0x1000: 0, 0x2fff: 0, 0x3000: 1, 0x4000: -1, 0xfff: -1, 0x8fff: 2, 0x9000: -1} {
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
