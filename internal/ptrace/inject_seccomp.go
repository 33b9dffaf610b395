package ptrace

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/bpfckpt/bpfckpt/internal/arch"
)

// A thread under seccomp filters is borrowed with the filters suspended, so that each call is made. If the tracer dies,
// they are in force again for what the thread has yet to execute on its way back: at most one of the calls, and
// rt_sigreturn. So each is put to the filters beforehand, and what they would punish is not asked for.

// Actions of a filter, the most severe first when compared as signed numbers (include/uapi/linux/seccomp.h).
const (
	seccompAllow     = 0x7fff0000
	seccompLog       = 0x7ffc0000
	seccompTrace     = 0x7ff00000
	seccompErrno     = 0x00050000
	seccompActions   = 0xffff0000
	sizeofSeccompArg = 64 // sizeof(struct seccomp_data)
)

// verdict returns what the filters together make of a call: the most severe of their actions.
func verdict(progs [][]byte, data *[sizeofSeccompArg]byte) (uint32, error) {
	worst := uint32(seccompAllow)
	for _, p := range progs {
		v, err := runFilter(p, data)
		if err != nil {
			return 0, err
		}
		if int32(v&seccompActions) < int32(worst) {
			worst = v & seccompActions
		}
	}
	return worst, nil
}

// seccompData is struct seccomp_data of a call made with the instruction at insn.
func seccompData(nr, insn uint64, args [6]uint64) *[sizeofSeccompArg]byte {
	var d [sizeofSeccompArg]byte
	binary.LittleEndian.PutUint32(d[0:], uint32(nr))
	binary.LittleEndian.PutUint32(d[4:], arch.Host.Audit)
	binary.LittleEndian.PutUint64(d[8:], insn+arch.Host.SyscallSize)
	for i, a := range args {
		binary.LittleEndian.PutUint64(d[16+8*i:], a)
	}
	return &d
}

var errFilter = errors.New("a seccomp filter has an instruction this version does not know")

// Classic BPF (include/uapi/linux/bpf_common.h, filter.h; kernel/seccomp.c, seccomp_check_filter).
const (
	bpfLD, bpfLDX, bpfST, bpfSTX, bpfALU, bpfJMP, bpfRET, bpfMISC = 0, 1, 2, 3, 4, 5, 6, 7

	bpfClass = 0x07
	bpfMode  = 0xe0
	bpfABS   = 0x20
	bpfIMM   = 0x00
	bpfMEM   = 0x60
	bpfLEN   = 0x80
	bpfX     = 0x08 // the second operand is X, not K
	bpfRetA  = 0x10
	bpfTXA   = 0x80
	bpfOp    = 0xf0
)

// filterState is the machine a filter runs on.
type filterState struct {
	a, x uint32
	mem  [16]uint32
	data *[sizeofSeccompArg]byte
}

// runFilter runs a filter, 8 bytes an instruction, and returns what it returns.
func runFilter(prog []byte, data *[sizeofSeccompArg]byte) (uint32, error) {
	s := filterState{data: data}
	for pc := 0; 8*pc+8 <= len(prog); pc++ {
		insn := prog[8*pc:]
		code, jt, jf, k := binary.LittleEndian.Uint16(insn), insn[2], insn[3], binary.LittleEndian.Uint32(insn[4:])
		operand := k
		if code&bpfX != 0 {
			operand = s.x
		}
		switch code & bpfClass {
		case bpfRET:
			if code&bpfRetA != 0 {
				return s.a, nil
			}
			return k, nil
		case bpfJMP:
			skip, err := s.jump(code, operand, jt, jf, k)
			if err != nil {
				return 0, err
			}
			pc += skip
		default:
			if err := s.step(code, operand, k); err != nil {
				return 0, err
			}
		}
	}
	return 0, fmt.Errorf("%w: it has no end", errFilter)
}

func (s *filterState) jump(code uint16, operand uint32, jt, jf uint8, k uint32) (int, error) {
	var yes bool
	switch code & bpfOp {
	case 0x00: // ja
		return int(k), nil
	case 0x10:
		yes = s.a == operand
	case 0x20:
		yes = s.a > operand
	case 0x30:
		yes = s.a >= operand
	case 0x40:
		yes = s.a&operand != 0
	default:
		return 0, fmt.Errorf("%w: %#x", errFilter, code)
	}
	if yes {
		return int(jt), nil
	}
	return int(jf), nil
}

func (s *filterState) step(code uint16, operand, k uint32) error {
	switch code & bpfClass {
	case bpfLD, bpfLDX:
		v, err := s.load(code, k)
		if code&bpfClass == bpfLD {
			s.a = v
		} else {
			s.x = v
		}
		return err
	case bpfST:
		s.mem[k&15] = s.a
	case bpfSTX:
		s.mem[k&15] = s.x
	case bpfALU:
		return s.alu(code, operand)
	case bpfMISC:
		if code&bpfTXA != 0 {
			s.a = s.x
		} else {
			s.x = s.a
		}
	}
	return nil
}

func (s *filterState) load(code uint16, k uint32) (uint32, error) {
	switch code & bpfMode {
	case bpfIMM:
		return k, nil
	case bpfMEM:
		return s.mem[k&15], nil
	case bpfLEN:
		return sizeofSeccompArg, nil
	case bpfABS:
		if k <= sizeofSeccompArg-4 && k%4 == 0 {
			return binary.LittleEndian.Uint32(s.data[k:]), nil
		}
	}
	return 0, fmt.Errorf("%w: %#x", errFilter, code)
}

func (s *filterState) alu(code uint16, v uint32) error {
	switch code & bpfOp {
	case 0x00:
		s.a += v
	case 0x10:
		s.a -= v
	case 0x20:
		s.a *= v
	case 0x30:
		if v == 0 {
			return fmt.Errorf("%w: division by zero", errFilter)
		}
		s.a /= v
	case 0x40:
		s.a |= v
	case 0x50:
		s.a &= v
	case 0x60:
		s.a <<= v & 31
	case 0x70:
		s.a >>= v & 31
	case 0x80:
		s.a = -s.a
	case 0xa0:
		s.a ^= v
	default:
		return fmt.Errorf("%w: %#x", errFilter, code)
	}
	return nil
}
