package ptrace

import (
	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// atStop would make a call go on that the stop of a thread has ended. Without that the program would see EINTR though
// nobody sent it a signal, so no thread is stopped.
func (th *Thread) atStop() error { return arch.Lacks(arch.InterruptedCalls) }

// look would find out how a call with a timeout can go on: none that atStop has told of. lacks: InterruptedCalls
func (g *Group) look(th *Thread, t *timedWait) bool { return false }

// foresee would find out what look will ask. lacks: InterruptedCalls
func (t *Tracer) foresee(pid int, c *procfs.Call) {}

// afterCall would be what is known of a register after a system call. lacks: InterruptedCalls
type afterCall struct{}

// InTimedWait would tell whether registers are those of a call with a timeout that a stop ended, and that could go on.
// Of the arguments of such a call the first is not among them any more. lacks: InterruptedCalls
func (r *Regs) InTimedWait() bool { return false }

// GoOn would make the registers of such a call ones that make it again. lacks: InterruptedCalls
func (r *Regs) GoOn(left int64, room uint64) (timespec []byte) { return nil }
