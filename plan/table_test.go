package plan

import (
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
)

// The plan refuses a mapping for each flag that cannot be brought back, and for none that can.
func TestTableOfFlagsIsPlanned(t *testing.T) {
	for _, f := range append(image.VMAFlags(), image.VMAFlag{Name: "q7", How: image.FlagRefused}) {
		st := &image.State{Processes: []image.Process{{
			Pid:  7,
			VMAs: []image.VMA{{Start: 0x1000, End: 0x2000, Kind: image.VMAAnon, Flags: []string{f.Name}}},
		}}}
		p := Build(st, nil, Policy{Side: Snap})
		if refused := len(p.Refusals) > 0; refused != (f.How == image.FlagRefused) {
			t.Errorf("%s: refusals %v", f.Name, p.Refusals)
		}
	}
}

// It refuses each kind of mapping that it says it refuses.
func TestTableOfMappingsIsPlanned(t *testing.T) {
	for _, kind := range []image.VMAKind{
		image.VMAAnon, image.VMAFile, image.VMAShmem, image.VMAVDSO, image.VMAVVar, image.VMADevice, image.VMASysV,
		image.VMAOther,
	} {
		st := &image.State{Processes: []image.Process{{
			Pid:  7,
			VMAs: []image.VMA{{Start: 0x1000, End: 0x2000, Kind: kind}},
		}}}
		want := kind == image.VMADevice || kind == image.VMASysV || kind == image.VMAOther
		if got := len(Build(st, nil, Policy{Side: Snap}).Refusals) > 0; got != want {
			t.Errorf("%s: refused %v", kind, got)
		}
	}
}
