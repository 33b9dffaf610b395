package plan

import (
	"encoding/binary"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Byte offsets in struct user_regs_struct (arch/x86/include/asm/user_64.h) and selectors (asm/segment.h). This file is
// built everywhere: an image is judged by machines that could not restore it.
const (
	offsetCS = 17 * 8
	offsetSS = 20 * 8
	offsetDS = 23 * 8 // es, fs and gs follow
	userCS   = 0x33   // __USER_CS
	userDS   = 0x2b   // __USER_DS
)

// registerRefusals refuses code and data segments that are not those of plain 64-bit programs. Regs is empty in a
// running tree.
func registerRefusals(pid int, th *image.Thread) fault.List {
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
