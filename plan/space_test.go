package plan

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/model"
)

// The boot area is where nothing else is, with room around it if there is any; a process without a hole is refused.
func TestBootPlace(t *testing.T) {
	const size = BootSize + VDSORoom
	end := arch.Of(machineX86).AddressEnd
	wide := &model.Process{Pid: 1, VMAs: []model.VMA{
		{Start: MinAddress, End: 0x400000},
		{Start: 0x400000 + size, End: 0x10000000}, // a hole without room
		{Start: 0x10000000 + 1<<20, End: StubPage - 0x100000},
	}}
	at, ok := BootPlace(wide, end)
	if !ok || at < StubPage+model.PageSize+bootRoom {
		t.Errorf("%#x, %v", at, ok)
	}
	tight := &model.Process{Pid: 1, VMAs: []model.VMA{
		{Start: MinAddress, End: 0x400000},
		{Start: 0x400000 + size, End: end},
	}}
	if at, ok := BootPlace(tight, end); !ok || at != 0x400000 {
		t.Errorf("the only hole: %#x, %v", at, ok)
	}
	full := &model.Process{Pid: 1, VMAs: []model.VMA{
		{Start: 0, End: 0x400000},
		{Start: 0x400000 + size - model.PageSize, End: end},
	}}
	if at, ok := BootPlace(full, end); ok {
		t.Errorf("a full address space has a hole at %#x", at)
	}
	if list := Build(&model.State{Processes: []model.Process{*full}}, nil,
		Options{Side: Snap}).Refusals; len(list) != 1 {
		t.Errorf("a full address space is not refused: %v", list)
	}
}

func procOf(pid, ppid, sid int, vmas ...model.VMA) model.Process {
	return model.Process{ExitSignal: 17, Pid: pid, PPid: ppid, Pgid: pid, Sid: sid, VMAs: vmas}
}

func TestPlanRefusesWhatNoForkCanMake(t *testing.T) {
	for name, c := range map[string]struct {
		procs []model.Process
		say   string
	}{
		"foreign session": {[]model.Process{procOf(10, 1, 5), procOf(11, 10, 12), procOf(12, 11, 12)}, "never was in"},
	} {
		_, err := MakeBirths(&model.State{Root: 10, Processes: c.procs})
		if err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v", name, err)
		}
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
		mode, nodes, err := ParsePolicy(text)
		if err != nil || mode != want.mode {
			t.Errorf("%s: mode %d, %v", text, mode, err)
		}
		if want.mask != 0 && binary.LittleEndian.Uint64(nodes) != want.mask {
			t.Errorf("%s: nodes % x", text, nodes[:8])
		}
	}
	for _, bad := range []string{"best:0", "bind=odd:0", "bind:x", "bind:3-1", "bind:99999"} {
		if _, _, err := ParsePolicy(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
