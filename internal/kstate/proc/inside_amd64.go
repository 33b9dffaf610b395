package proc

import (
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

const archGetCPUID = 0x1011 // ARCH_GET_CPUID (arch_prctl(2))

// askMachine asks for what only a thread on this architecture has.
func askMachine(b *batch, t *model.Thread) {
	b.ask("PR_GET_TSC", unix.SYS_PRCTL, []uint64{unix.PR_GET_TSC}, 1, 4,
		b.must(func(c *ptrace.Syscall) { t.TSCSignal = word32(c, 0) == unix.PR_TSC_SIGSEGV }))
	b.ask("ARCH_GET_CPUID", unix.SYS_ARCH_PRCTL, []uint64{archGetCPUID}, 0, 0,
		b.must(func(c *ptrace.Syscall) { t.CPUIDFault = c.Ret == 0 }))
}

// askMachineMM asks for what only an address space on this architecture has.
func (c *collection) askMachineMM(b *batch, name string) {
	b.ask("modify_ldt", unix.SYS_MODIFY_LDT, []uint64{0, 0, 16}, 1, 16, func(s *ptrace.Syscall) error {
		if s.Ret > 0 { // ENOSYS: built without CONFIG_MODIFY_LDT_SYSCALL
			c.block(fault.ThreadState, name, "it has a local descriptor table (modify_ldt)")
		}
		return nil
	})
}
