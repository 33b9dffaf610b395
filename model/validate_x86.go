package model

import (
	"encoding/binary"
	"fmt"
)

// The register state of x86-64 as an image holds it. This file is built everywhere: an image is checked by machines
// that could not restore it.
const (
	machineX86   = "x86_64"
	x86Regs      = 27 * 8   // sizeof(struct user_regs_struct), asm/user_64.h
	x86XStateMin = 512 + 64 // FXSAVE area and XSAVE header
	x86XStateMax = 64 << 10 // far beyond AMX, the largest there is
	x86XStateBV  = 512      // XSTATE_BV, the components that are not in their initial state
	x86XCompBV   = 520      // XCOMP_BV, 0 in the standard format
)

// checkX86 checks the registers of a thread.
func checkX86(k *Kernel, t *Thread) error {
	n := len(t.XState)
	if err := firstBad(
		rule{len(t.Regs) != x86Regs, fmt.Sprintf("its registers have %d bytes instead of %d", len(t.Regs), x86Regs)},
		rule{n < x86XStateMin || n > x86XStateMax || n%8 != 0, fmt.Sprintf("its extended state has %d bytes", n)},
	); err != nil {
		return err
	}
	le := binary.LittleEndian
	return firstBad(
		rule{
			k.XFeatures != 0 && le.Uint64(t.XState[x86XStateBV:])&^k.XFeatures != 0,
			"its extended state has components the CPU did not offer",
		},
		rule{le.Uint64(t.XState[x86XCompBV:]) != 0, "its extended state is in the compacted format"},
	)
}
