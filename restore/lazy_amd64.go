package restore

import (
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
)

// startsAt are addresses that a thread is about to use: its stack, and what its FS base points to.
func startsAt(t *image.Thread) []uint64 {
	regs, err := ptrace.RegsFrom(t.Regs)
	if err != nil {
		return nil // it is reported when the registers are set
	}
	return []uint64{regs.Rsp, regs.FsBase}
}
