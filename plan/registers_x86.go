package plan

import (
	"encoding/binary"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// Byte offsets in struct user_regs_struct (arch/x86/include/asm/user_64.h) and selectors (asm/segment.h). This file is
// built everywhere: an image is judged by machines that could not restore it.
const (
	machineX86 = "x86_64" // uname -m

	offsetCS = 17 * 8
	offsetSS = 20 * 8
	offsetDS = 23 * 8 // es, fs and gs follow
	userCS   = 0x33   // __USER_CS
	userDS   = 0x2b   // __USER_DS
)

// registerRefusals refuses code and data segments that are not those of plain 64-bit programs. Regs is empty in a
// running tree.
func registerRefusals(pid int, th *model.Thread) fault.List {
	if len(th.Regs) < offsetDS+4*8 {
		return nil
	}
	reg := func(off int) uint64 { return binary.LittleEndian.Uint64(th.Regs[off:]) }
	if cs := reg(offsetCS); cs != userCS {
		return fault.List{fault.New(fault.ThreadState, threadName(pid, th.Tid), "it runs 32-bit code (cs %#x)", cs).
			WithRemedy("use the 64-bit build of the program")}
	}
	for i, off := range []int{offsetSS, offsetDS, offsetDS + 8, offsetDS + 16, offsetDS + 24} {
		if v := reg(off); v != userDS && (v != 0 || off == offsetSS) {
			return fault.List{fault.New(fault.ThreadState, threadName(pid, th.Tid),
				"its segment register %s holds %#x: it has segments of its own (modify_ldt, set_thread_area)",
				[]string{"ss", "ds", "es", "fs", "gs"}[i], v)}
		}
	}
	return nil
}

// componentRefusal refuses components of the extended state that this CPU does not offer.
func (h *Host) componentRefusal(object string, t *model.Thread) *fault.Error {
	used, ok := xstateUsed(t.XState)
	if !ok || used&^h.XFeatures == 0 || h.XFeatures == 0 {
		return nil
	}
	return fault.New(fault.OtherCPU, object, "register components %#x are in use and this CPU offers %#x", used, h.XFeatures)
}

// xstateUsed reads XSTATE_BV, the components of an NT_X86_XSTATE register set that are not in their initial state
// (XSAVE header, at 512).
func xstateUsed(xstate []byte) (uint64, bool) {
	const header = 512
	if len(xstate) < header+8 {
		return 0, false
	}
	return binary.LittleEndian.Uint64(xstate[header:]), true
}
