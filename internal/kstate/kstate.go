// Package kstate is the seam between those who know the kernel's tables and those who need them. A Source reads the
// kernel state of thread groups; there are three: the live shadow table of a watch, one-shot BPF iterators (package
// tracer), and /proc with injected queries (this package). What they return must not depend on which one it was: a test
// compares them field by field.
package kstate

import (
	"context"
	"fmt"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// Source reads kernel state. Implementations are not safe for concurrent use.
type Source interface {
	// Name is "watch", "iter" or "proc", as `snap --json` reports it.
	Name() string
	// Collect reads the state of the given thread groups, parents before children.
	//
	// With g not nil every thread of every pid is stopped under g and the result is complete, except for what ptrace
	// itself tells and the snapshot engine adds: Regs, XState, SigMask, both Pending lists, Rseq, Seccomp.Filters, SUD.
	// With g nil the target runs, must not be disturbed in any way, and fields that only a stopped target tells stay
	// zero.
	//
	// Nothing here reads the file system beyond /proc: MappedFile.Size, MTime, BuildID, Unlinked, VMA.Shmem, and
	// everything in a File after Path, are left to the caller.
	Collect(ctx context.Context, pids []int, g *ptrace.Group) (*Collected, error)
	// Tells says what a complete result of Collect tells of that not every Source can tell.
	Tells() Facts
	// Close releases what the source holds in the kernel.
	Close() error
}

// SomePolicy stands in model.Thread.NUMA for a memory policy (set_mempolicy(2)) that a source knows of, but does not
// know: package snapshot reads it.
const SomePolicy = "?"

// Facts are what some sources tell of each thread, as blockers, and whoever uses another has to find out.
type Facts struct {
	Sharing    bool     // processes and threads that share what others have for themselves, and what they would undo
	Namespaces []string // namespaces that are not ours, of these kinds: links below /proc/PID/ns
}

// Collected is what a Source found.
type Collected struct {
	Processes []model.Process
	Files     []model.File // each open file description once, however many descriptors and processes share it
	Events    uint64       // records consumed since the watch began, 0 without one
	Lost      uint64       // records the ring buffer dropped
	Drift     uint64       // fields in which the table differed from the kernel
	Held      Held         // of a Holder on guard: without Threads
	// what the source saw that is not saved, and that does not keep the tree from being saved: a line each
	Notes []string
	// what the source saw that model.State cannot hold, and that therefore keeps the tree from being saved
	Blockers fault.List
}

// Breakpoint is a probe of the source itself in the code that processes map: an int3 that is no part of them.
type Breakpoint struct {
	Dev, Ino uint64 // of the file, as in model.MappedFile
	Offset   int64  // in the file
}

// Prober is a Source that has put probes into code.
type Prober interface {
	// Breakpoints returns the probes there are. One that is gone a moment later, or has just come, does no harm.
	Breakpoints(ctx context.Context) ([]Breakpoint, error)
}

// Holder is a Source that sees the regions in which no snapshot may be taken (include/bpfckpt.h).
type Holder interface {
	// Guard makes Collect of stopped thread groups look first: it returns a *HeldError if a thread is in a region,
	// which is exact then, but for Held.Unsure, and E_REGIONS if it cannot be told.
	Guard()
	// Held tells which threads of the given thread groups, which run, are in a region.
	Held(ctx context.Context, pids []int) (Held, error)
	// AwaitRelease returns when none is, or with an error of ctx.
	AwaitRelease(ctx context.Context, pids []int) error
}

// Held is the answer of a Holder.
type Held struct {
	Threads []HeldThread
	// Unsure are thread groups with regions of which something was not seen: threads that ran before the Source was
	// there, and may have been in a region then.
	Unsure []int
	Age    time.Duration // how long ago it began to see all of those
}

// HeldError is why Collect was refused.
type HeldError struct{ Held }

// Error names a thread.
func (e *HeldError) Error() string {
	return fmt.Sprintf("thread %d of pid %d is in a region in which no snapshot may be taken", e.Threads[0].Tid,
		e.Threads[0].Pid)
}

// HeldThread is a thread in a region.
type HeldThread struct {
	Pid, Tid int
	Depth    int           // of nested regions
	For      time.Duration // since when, the outermost
}
