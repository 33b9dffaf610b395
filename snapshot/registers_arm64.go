package snapshot

// xfeatures returns XCR0 of x86-64, which an extended state of this architecture has not.
func xfeatures(xstate []byte) uint64 { return 0 }

// breakpointSize is the size of the instruction that uprobes write over another.
const breakpointSize = 4

// isBreakpoint tells whether the byte at i of code is one of `brk #5`, 0xd42000a0, which uprobes write over another
// (arch/arm64/include/asm/brk-imm.h, UPROBES_BRK_IMM). Instructions are aligned.
func isBreakpoint(code []byte, i int) bool {
	return code[i] == [breakpointSize]byte{0xa0, 0x00, 0x20, 0xd4}[i%breakpointSize]
}
