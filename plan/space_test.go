package plan

import (
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
)

// The boot area is where nothing else is, with room around it if there is any; a process without a hole is refused.
func TestBootPlace(t *testing.T) {
	const size = BootSize + VDSORoom
	wide := &image.Process{Pid: 1, VMAs: []image.VMA{
		{Start: MinAddress, End: 0x400000},
		{Start: 0x400000 + size, End: 0x10000000}, // a hole without room
		{Start: 0x10000000 + 1<<20, End: StubPage - 0x100000},
	}}
	at, ok := BootPlace(wide)
	if !ok || at < StubPage+image.PageSize+bootRoom {
		t.Errorf("%#x, %v", at, ok)
	}
	tight := &image.Process{Pid: 1, VMAs: []image.VMA{{Start: MinAddress, End: 0x400000}, {Start: 0x400000 + size, End: MaxAddress - image.PageSize}}}
	if at, ok := BootPlace(tight); !ok || at != 0x400000 {
		t.Errorf("the only hole: %#x, %v", at, ok)
	}
	full := &image.Process{Pid: 1, VMAs: []image.VMA{{Start: 0, End: 0x400000}, {Start: 0x400000 + size - image.PageSize, End: MaxAddress - image.PageSize}}}
	if at, ok := BootPlace(full); ok {
		t.Errorf("a full address space has a hole at %#x", at)
	}
	if list := Build(&image.State{Processes: []image.Process{*full}}, nil, Policy{Side: Snap}).Refusals; len(list) != 1 {
		t.Errorf("a full address space is not refused: %v", list)
	}
}
