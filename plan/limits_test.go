package plan

import (
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// No limit is asked for above what the descriptors themselves need.
func TestLimitNeed(t *testing.T) {
	rec := &model.Process{FDs: []model.FD{{Num: 0}, {Num: 1}, {Num: 2}, {Num: 19999}}, VMAs: []model.VMA{
		{Start: 0x10000, End: 0x20000, Prot: protRead}, {Start: 0x20000, End: 0x30000, Prot: protRead | protWrite},
	}}
	const own = BootSize + VDSORoom
	for limit, want := range map[int]uint64{
		limitNofile: 20000, limitAS: own + 0x20000, limitData: own + 0x10000,
		0: 0,
	} {
		if have := LimitNeed(rec, limit); have != want {
			t.Errorf("%s: %d, want %d", limitNames[limit], have, want)
		}
	}
}

// A pipe that is larger than what we may make is refused, unless we may make any.
func TestPipeCapacity(t *testing.T) {
	st := &model.State{Pipes: []model.Pipe{{Ino: 5, Capacity: 1 << 20}, {Ino: 6, Capacity: 1 << 21}}}
	for name, c := range map[string]struct {
		host *Host
		want int
	}{
		"below":   {&Host{PipeMax: 1 << 21}, 0},
		"above":   {&Host{PipeMax: 1 << 20}, 1},
		"capable": {&Host{PipeMax: 1 << 16, Caps: 1 << capSysResource}, 0},
	} {
		b := &builder{st: st, host: c.host, o: Options{Side: Snap}}
		if b.pipes(); len(b.refusals) != c.want {
			t.Errorf("%s: %v", name, b.refusals)
		}
	}
}

// A file that is mapped shared and writable may have been renamed since: only those who look for it can tell that it is
// gone.
func TestRenamedMapping(t *testing.T) {
	for name, c := range map[string]struct {
		shared bool
		want   int
	}{"shared": {true, 0}, "private": {false, 1}} {
		v := model.VMA{
			Start: 0x1000, End: 0x2000, Kind: model.VMAFile, Shared: c.shared,
			File: model.MappedFile{Path: "/log"},
		}
		if c.shared {
			v.Flags = []string{"mw"}
		}
		b := &builder{
			st: &model.State{}, host: &Host{Files: map[string]File{"/log": {Gone: "it is not there"}}},
			o: Options{Side: Restore},
		}
		if b.mapped(&v.File, v.Shared && v.Has("mw")); len(b.refusals) != c.want {
			t.Errorf("%s: %v", name, b.refusals)
		}
	}
}
