package ptrace

import (
	"golang.org/x/arch/x86/x86asm"
)

// The registers that deadAfter can be asked about, with the names of their parts.
var (
	registerR10 = []x86asm.Reg{x86asm.R10, x86asm.R10L, x86asm.R10W, x86asm.R10B}
	registerRdx = []x86asm.Reg{x86asm.RDX, x86asm.EDX, x86asm.DX, x86asm.DL, x86asm.DH}
)

// liveness is a search for an instruction that reads a register before it is written.
type liveness struct {
	read   func(at uint64, b []byte) int // as much code as there is
	reg    []x86asm.Reg
	seen   map[uint64]bool
	budget int // instructions that are looked at
}

// deadInstructions is how far deadAfter looks. What follows a system call in a libc is ten to thirty instructions.
const deadInstructions = 200

// deadAfter reports whether no way through the code at an address reads a register before it is written, or lost by the
// calling convention: both registers here are the callee's to change. It follows branches and calls, and says no to
// whatever it does not know.
func deadAfter(read func(at uint64, b []byte) int, at uint64, reg []x86asm.Reg) bool {
	l := liveness{read: read, reg: reg, seen: map[uint64]bool{}, budget: deadInstructions}
	return l.dead(at)
}

// Effects of an instruction.
const (
	effectUnknown = iota
	effectNone    // neither reads nor writes it
	effectReads
	effectWrites // all of it
)

func (l *liveness) dead(at uint64) bool {
	for !l.seen[at] {
		l.seen[at] = true
		if l.budget--; l.budget < 0 {
			return false
		}
		var code [15]byte // the longest instruction
		n := l.read(at, code[:])
		if isEndbr(code[:n]) {
			at += 4
			continue
		}
		inst, err := x86asm.Decode(code[:n], 64)
		if err != nil {
			return false
		}
		next := at + uint64(inst.Len)
		switch inst.Op {
		case x86asm.RET, x86asm.UD2:
			return true
		case x86asm.NOP: // whatever its operands
			at = next
			continue
		case x86asm.JMP, x86asm.CALL:
			// A callee may have it as an argument, so its code tells; what it does not read before it returns is lost.
			rel, ok := inst.Args[0].(x86asm.Rel)
			if !ok {
				return false
			}
			at = next + uint64(int64(rel))
			continue
		}
		if rel, ok := inst.Args[0].(x86asm.Rel); ok { // a conditional jump
			if !isJcc(inst.Op) || !l.dead(next+uint64(int64(rel))) {
				return false
			}
			at = next
			continue
		}
		switch l.effect(&inst) {
		case effectNone:
			at = next
		case effectWrites:
			return true
		default:
			return false
		}
	}
	return true // on the way there it was not read
}

// isEndbr recognises endbr64, which the decoder takes for something else.
func isEndbr(code []byte) bool {
	return len(code) >= 4 && code[0] == 0xf3 && code[1] == 0x0f && code[2] == 0x1e && code[3] == 0xfa
}

func isJcc(op x86asm.Op) bool {
	switch op {
	case x86asm.JA, x86asm.JAE, x86asm.JB, x86asm.JBE, x86asm.JE, x86asm.JG, x86asm.JGE, x86asm.JL, x86asm.JLE,
		x86asm.JNE, x86asm.JNO, x86asm.JNP,
		x86asm.JNS, x86asm.JO, x86asm.JP, x86asm.JS:
		return true
	}
	return false
}

// effect tells what an instruction does with the register.
func (l *liveness) effect(inst *x86asm.Inst) int {
	writes := false
	switch inst.Op {
	case x86asm.MOV, x86asm.MOVZX, x86asm.MOVSX, x86asm.MOVSXD, x86asm.LEA, x86asm.POP:
		writes = true // its first operand, which it does not read
	case x86asm.XOR, x86asm.SUB:
		if inst.Args[0] == inst.Args[1] { // a way to write zero
			writes = true
		}
	case x86asm.CMP, x86asm.TEST, x86asm.ADD, x86asm.AND, x86asm.OR, x86asm.NEG, x86asm.NOT, x86asm.INC, x86asm.DEC,
		x86asm.SHL, x86asm.SHR, x86asm.SAR,
		x86asm.PUSH, x86asm.XCHG, x86asm.CMPXCHG, x86asm.XADD, x86asm.BT, x86asm.LEAVE,
		x86asm.CMOVA, x86asm.CMOVAE, x86asm.CMOVB, x86asm.CMOVBE, x86asm.CMOVE, x86asm.CMOVG, x86asm.CMOVGE,
		x86asm.CMOVL, x86asm.CMOVLE, x86asm.CMOVNE,
		x86asm.CMOVS, x86asm.CMOVNS,
		x86asm.SETA, x86asm.SETAE, x86asm.SETB, x86asm.SETBE, x86asm.SETE, x86asm.SETG, x86asm.SETGE, x86asm.SETL,
		x86asm.SETLE, x86asm.SETNE, x86asm.SETS, x86asm.SETNS:
	default:
		return effectUnknown
	}
	whole := false
	for i, a := range inst.Args {
		switch a := a.(type) {
		case x86asm.Mem:
			if l.part(a.Base) >= 0 || l.part(a.Index) >= 0 {
				return effectReads
			}
		case x86asm.Reg:
			switch part := l.part(a); {
			case part < 0:
			case i == 0 && writes && part < 2: // 64 or 32 bits: the upper half becomes zero
				whole = true
			case i == 0 && writes && inst.Op != x86asm.XOR && inst.Op != x86asm.SUB: // the rest of it stays
			case inst.Args[0] == inst.Args[1] && writes: // the other operand of one that writes zero
			default:
				return effectReads
			}
		}
	}
	if whole {
		return effectWrites
	}
	return effectNone
}

// part tells which part of the register r is, as an index, -1 if none.
func (l *liveness) part(r x86asm.Reg) int {
	for i, name := range l.reg {
		if r == name && r != 0 {
			return i
		}
	}
	return -1
}
