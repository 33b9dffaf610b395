package ptrace

import (
	"fmt"

	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/model"
)

// carried are the register sets beside the general ones that are saved and set as they are. What a kernel or processor
// has not got is left out (include/uapi/linux/elf.h).
var carried = []uint32{
	2,     // NT_PRFPREG: FPSIMD
	0x401, // NT_ARM_TLS
	0x407, // NT_ARM_PACA_KEYS: keys of pointer authentication
	0x408, // NT_ARM_PACG_KEYS
	0x409, // NT_ARM_TAGGED_ADDR_CTRL
	0x40a, // NT_ARM_PAC_ENABLED_KEYS
}

// wide are those that are not.
var wide = []uint32{
	0x405, // NT_ARM_SVE
	0x40b, // NT_ARM_SSVE
	0x40c, // NT_ARM_ZA
	0x40d, // NT_ARM_ZT
	0x40e, // NT_ARM_FPMR
	0x40f, // NT_ARM_POE
	0x410, // NT_ARM_GCS
}

// maxRegset bounds the size of a register set: that of SVE with vectors of 2,048 bits is 8.5 KiB.
const maxRegset = 16 << 10

// XState appends the register sets beside the general ones to buf, as model.RegisterSets reads them.
func (th *Thread) XState(buf []byte) ([]byte, error) {
	err := th.do("read the extended state", func() error {
		room := make([]byte, maxRegset)
		for _, kind := range wide {
			if _, err := getRegset(th.Tid, int(kind), room); !absent(err) {
				if err == nil {
					err = arch.Lacks(arch.WideRegisters)
				}
				return err
			}
		}
		for _, kind := range carried {
			n, err := getRegset(th.Tid, int(kind), room)
			if absent(err) {
				continue
			}
			if err != nil {
				return err
			}
			buf = model.RegisterSet{Kind: kind, Data: room[:n]}.Append(buf)
		}
		return nil
	})
	return buf, err
}

// SetXState writes the register sets that XState read.
func (th *Thread) SetXState(b []byte) error {
	return th.do("write the extended state", func() error {
		sets, err := model.RegisterSets(b)
		if err != nil {
			return err
		}
		for _, s := range sets {
			if err := setRegset(th.Tid, int(s.Kind), s.Data); err != nil {
				return fmt.Errorf("register set %#x: %w", s.Kind, err)
			}
		}
		return nil
	})
}
