package restore

import (
	"fmt"

	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// startsAt are addresses that a thread is about to use: its stack. That of the thread pointer comes with a fault.
func startsAt(t *model.Thread) []uint64 {
	regs, err := ptrace.RegsFrom(t.Regs)
	if err != nil {
		return nil // it is reported when the registers are set
	}
	return []uint64{regs.SP()}
}

// setMachine restores what only a thread on this architecture has registered with the kernel: nothing.
func setMachine(b *batch, t *model.Thread) {}

// fitXState checks that this CPU has the register sets of an extended state of the image, in the same sizes.
func fitXState(saved, have []byte) ([]byte, error) {
	want, err := model.RegisterSets(saved)
	if err != nil {
		return nil, err
	}
	here, err := model.RegisterSets(have)
	if err != nil {
		return nil, err
	}
	sizes := map[uint32]int{}
	for _, s := range here {
		sizes[s.Kind] = len(s.Data)
	}
	for _, s := range want {
		if n, ok := sizes[s.Kind]; !ok || n != len(s.Data) {
			return nil, fmt.Errorf("the register set %#x of %d bytes is in use, and this CPU has one of %d", s.Kind,
				len(s.Data), n)
		}
	}
	return saved, nil
}

// reenter would bring the thread into the system call that it was interrupted in.
func (f *finisher) reenter(p *process, th *ptrace.Thread, rec *model.Thread, regs *ptrace.Regs) error {
	return arch.Lacks(arch.InterruptedCalls)
}
