package plan

import (
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// The plan refuses a mapping for each flag that cannot be brought back, and for none that can.
func TestTableOfFlagsIsPlanned(t *testing.T) {
	for _, f := range append(model.VMAFlags(), model.VMAFlag{Name: "q7", How: model.FlagRefused}) {
		st := &model.State{Processes: []model.Process{{
			Pid:  7,
			VMAs: []model.VMA{{Start: 0x1000, End: 0x2000, Kind: model.VMAAnon, Flags: []string{f.Name}}},
		}}}
		p := Build(st, nil, Options{Side: Snap})
		if refused := len(p.Refusals) > 0; refused != (f.How == model.FlagRefused) {
			t.Errorf("%s: refusals %v", f.Name, p.Refusals)
		}
	}
}

// It refuses each kind of mapping that it says it refuses.
func TestTableOfMappingsIsPlanned(t *testing.T) {
	for _, kind := range []model.VMAKind{
		model.VMAAnon, model.VMAFile, model.VMAShmem, model.VMAVDSO, model.VMAVVar, model.VMADevice, model.VMASysV,
		model.VMAOther,
	} {
		st := &model.State{Processes: []model.Process{{
			Pid:  7,
			VMAs: []model.VMA{{Start: 0x1000, End: 0x2000, Kind: kind}},
		}}}
		want := kind == model.VMADevice || kind == model.VMASysV || kind == model.VMAOther
		if got := len(Build(st, nil, Options{Side: Snap}).Refusals) > 0; got != want {
			t.Errorf("%s: refused %v", kind, got)
		}
	}
}
