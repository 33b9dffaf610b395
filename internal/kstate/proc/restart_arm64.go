package proc

import (
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
)

// interrupted would fill Thread.Restart: nothing in the registers says that there is a call to go on with.
func (c *collection) interrupted(th *ptrace.Thread, t *image.Thread) error {
	return arch.Lacks(arch.InterruptedCalls)
}
