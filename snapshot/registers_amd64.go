package snapshot

import "encoding/binary"

// xfeaturesOffset is where the legacy area of an XSAVE image, as ptrace gives it, has XCR0 (Documentation of struct
// fx_sw_reserved.. arch/x86/include/uapi/asm/sigcontext.h: sw_reserved begins at 464).
const xfeaturesOffset = 464

// xfeatures returns XCR0 from an NT_X86_XSTATE register set, 0 if it has none.
func xfeatures(xstate []byte) uint64 {
	if len(xstate) < xfeaturesOffset+8 {
		return 0
	}
	return binary.LittleEndian.Uint64(xstate[xfeaturesOffset:])
}

// breakpoint is the instruction int3, which uprobes write over the first byte of another
// (arch/x86/include/asm/uprobes.h).
const (
	breakpoint     = 0xcc
	breakpointSize = 1
)

// isBreakpoint tells whether the byte at i of code is one of a breakpoint.
func isBreakpoint(code []byte, i int) bool { return code[i] == breakpoint }
