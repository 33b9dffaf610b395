package model

import (
	"encoding/binary"
	"fmt"
)

// The register state of arm64 as an image holds it. This file is built everywhere: an image is checked by machines that
// could not restore it.
const (
	machineAarch64  = "aarch64"
	aarch64Regs     = 34 * 8  // sizeof(struct user_pt_regs), arch/arm64/include/uapi/asm/ptrace.h
	aarch64FPSimd   = 2       // NT_PRFPREG, struct user_fpsimd_state
	sizeofFPSimd    = 528     // 32 registers of 16 bytes, status, control, padding
	aarch64TLS      = 0x401   // NT_ARM_TLS: the thread pointer, and that of SME
	setHead         = 8       // of a RegisterSet: kind and size
	maxRegisterSets = 64      // far beyond those that there are
	maxRegisterSet  = 1 << 20 // far beyond the largest, ZA of SME
)

// RegisterSet is one of those an XState of arm64 consists of, which has them one behind the other: kind, size in bytes,
// each of 32 bits, and the set, all of it little-endian and padded to a multiple of 8.
type RegisterSet struct {
	Kind uint32 // NT_* (include/uapi/linux/elf.h)
	Data []byte // as PTRACE_GETREGSET gives it
}

// Append appends the set to an XState.
func (s RegisterSet) Append(xstate []byte) []byte {
	xstate = binary.LittleEndian.AppendUint32(xstate, s.Kind)
	xstate = binary.LittleEndian.AppendUint32(xstate, uint32(len(s.Data)))
	return append(append(xstate, s.Data...), make([]byte, -len(s.Data)&7)...)
}

// RegisterSets reads an XState of arm64. What it returns shares its memory.
func RegisterSets(xstate []byte) ([]RegisterSet, error) {
	var sets []RegisterSet
	for len(xstate) > 0 {
		if len(xstate) < setHead || len(sets) == maxRegisterSets {
			return nil, fmt.Errorf("its extended state has %d bytes behind %d register sets", len(xstate), len(sets))
		}
		kind, n := binary.LittleEndian.Uint32(xstate), uint64(binary.LittleEndian.Uint32(xstate[4:]))
		padded := (n + 7) &^ 7
		if n > maxRegisterSet || padded > uint64(len(xstate)-setHead) {
			return nil, fmt.Errorf("its register set %#x of %d bytes is cut short", kind, n)
		}
		for _, s := range sets {
			if s.Kind == kind {
				return nil, fmt.Errorf("its register set %#x is there twice", kind)
			}
		}
		sets = append(sets, RegisterSet{kind, xstate[setHead : setHead+n]})
		xstate = xstate[setHead+padded:]
	}
	return sets, nil
}

// checkAarch64 checks the registers of a thread.
func checkAarch64(k *Kernel, t *Thread) error {
	if len(t.Regs) != aarch64Regs {
		return fmt.Errorf("its registers have %d bytes instead of %d", len(t.Regs), aarch64Regs)
	}
	sets, err := RegisterSets(t.XState)
	if err != nil {
		return err
	}
	size := map[uint32]int{}
	for _, s := range sets {
		size[s.Kind] = len(s.Data)
	}
	return firstBad(
		rule{size[aarch64FPSimd] != sizeofFPSimd, "its FPSIMD registers are missing, or not of their size"},
		rule{size[aarch64TLS] != 8 && size[aarch64TLS] != 16, "its thread pointer is missing"},
		rule{k.XFeatures != 0 || t.CPUIDFault, "it has what only x86-64 has"},
	)
}
