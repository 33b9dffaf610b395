package proc

import (
	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// interrupted would fill Thread.Restart: nothing in the registers says that there is a call to go on with.
func (c *collection) interrupted(th *ptrace.Thread, t *model.Thread) error {
	return arch.Lacks(arch.InterruptedCalls)
}
