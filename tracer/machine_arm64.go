package tracer

import (
	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/model"
)

// oldNames are the names of calls that this architecture has in a more general form only: it has none of them.
var oldNames map[uint16]string

// oldOpen tells how open(2) or creat(2) opened a file: there are no such calls.
func oldOpen(e *bpf.WatchEvFd) (how, create uint32, ok bool) { return 0, 0, false }

// isDup2 tells whether a call is dup2(2): there is no such call.
func isDup2(nr uint16) bool { return false }

// Protections that only mprotect(2) of this architecture has, and the flags of mappings that it sets anew.
const (
	protMachine = 0x10 | 0x20 // PROT_BTI, PROT_MTE (arch/arm64/include/uapi/asm/mman.h)
	vmMachine   = 1 << 24     // VM_ARM64_BTI, which is VM_ARCH_1 (include/linux/mm.h)
)

// wideMode tells whether a thread runs 64-bit code: PSR_MODE32_BIT is clear (arch/arm64/include/uapi/asm/ptrace.h).
func wideMode(mode uint32) bool { return mode&0x10 == 0 }

// faulting would find whether reading a clock register faults in a stopped thread, which no thread is yet.
func (b *builder) faulting(pid int, r *bpf.IterThreadRec, t *model.Thread) error {
	return arch.Lacks(arch.InterruptedCalls)
}
