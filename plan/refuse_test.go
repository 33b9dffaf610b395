package plan

import (
	"bytes"
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

func TestNotifiesFindsUserNotification(t *testing.T) {
	ins := func(code uint16, k uint32) []byte {
		return []byte{byte(code), byte(code >> 8), 0, 0, byte(k), byte(k >> 8), byte(k >> 16), byte(k >> 24)}
	}
	allow, notify, computed, load := ins(0x06, 0x7fff0000), ins(0x06, 0x7fc00000), ins(0x16, 0), ins(0x20, 0x7fc00000)
	for _, c := range []struct {
		name string
		prog [][]byte
		want bool
	}{
		{"allow", [][]byte{load, allow}, false},
		{"notify", [][]byte{load, notify, allow}, true},
		{"computed", [][]byte{load, computed}, true},
	} {
		if got := notifies(bytes.Join(c.prog, nil)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// Segments are looked for in the registers of x86-64 only: those of arm64 have other things in their place.
func TestRegistersOfAnotherArchitecture(t *testing.T) {
	st := &model.State{Processes: []model.Process{{
		Pid: 7, Threads: []model.Thread{{Tid: 7, Regs: make([]byte, 272), XState: make([]byte, 576)}},
	}}}
	for machine, want := range map[string]int{"x86_64": 1, "aarch64": 0} {
		st.Kernel.Machine = machine
		if list := Build(st, nil, Options{Side: Snap}).Refusals; len(list) != want {
			t.Errorf("%s: %v", machine, list)
		}
	}
}
