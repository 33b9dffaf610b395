package model_test

import (
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

// aarch64 is a state of arm64, whose second thread has the given register sets.
func aarch64(sets ...model.RegisterSet) *model.State {
	st := imagetest.State()
	st.Kernel.Machine, st.Kernel.XFeatures = "aarch64", 0
	for i := range st.Processes {
		for j := range st.Processes[i].Threads {
			t := &st.Processes[i].Threads[j]
			t.Regs, t.XState = make([]byte, 272), nil
			for _, s := range sets {
				t.XState = s.Append(t.XState)
			}
		}
	}
	return st
}

// The registers of arm64 are checked by what arm64 has, whichever machine checks them.
func TestValidateAarch64(t *testing.T) {
	simd := model.RegisterSet{Kind: 2, Data: make([]byte, 528)}
	tls := model.RegisterSet{Kind: 0x401, Data: []byte{1, 2, 3, 4, 5, 6, 7, 8}}
	odd := model.RegisterSet{Kind: 0x409, Data: []byte{9, 8, 7}}
	good := aarch64(simd, tls, odd)
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	sets, err := model.RegisterSets(good.Processes[0].Threads[0].XState)
	if err != nil || len(sets) != 3 || sets[1].Kind != tls.Kind || string(sets[1].Data) != string(tls.Data) ||
		string(sets[2].Data) != string(odd.Data) {
		t.Errorf("read as %v, %v", sets, err)
	}
	short := aarch64(simd, tls)
	short.Processes[0].Threads[0].XState = short.Processes[0].Threads[0].XState[:100]
	huge := aarch64(simd, tls)
	huge.Processes[0].Threads[0].XState[6] = 0xff
	x86 := aarch64(simd, tls)
	x86.Processes[0].Threads[0].Regs = make([]byte, 216)
	cpuid := aarch64(simd, tls)
	cpuid.Processes[0].Threads[0].CPUIDFault = true
	for want, st := range map[string]*model.State{
		"thread pointer is missing":       aarch64(simd),
		"FPSIMD registers":                aarch64(tls),
		"there twice":                     aarch64(simd, tls, tls),
		"0x2 of 528 bytes is cut":         short,
		"0x2 of 16712208 bytes is cut":    huge,
		"registers have 216 bytes":        x86,
		"has what only x86-64 has":        cpuid,
		"has 4 bytes behind 2 register s": trailing(aarch64(simd, tls)),
	} {
		if err := st.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func trailing(st *model.State) *model.State {
	th := &st.Processes[0].Threads[0]
	th.XState = append(th.XState, 0, 0, 0, 0)
	return st
}
