package proc

import (
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// askMachine asks for what not every architecture has: whether reading the clock register faults (Linux 6.12).
func askMachine(b *batch, t *model.Thread) {
	b.ask("PR_GET_TSC", unix.SYS_PRCTL, []uint64{unix.PR_GET_TSC}, 1, 4,
		optional(func(c *ptrace.Syscall) { t.TSCSignal = word32(c, 0) == unix.PR_TSC_SIGSEGV }))
}

// askMachineMM asks for what an address space has beside mappings: there are no segments.
func (c *collection) askMachineMM(b *batch, name string) {}
