// Package dirty tells which pages of running processes have been written since a moment chosen before. Three backends
// do it:
//
//   - uffd-wp (Linux 6.7): a userfaultfd made inside the process write-protects its pages asynchronously, the kernel lifts the protection of a page at the
//     first write to it by itself, and PAGEMAP_SCAN reports and protects again in one step. The target never waits for us.
//   - soft-dirty: /proc/PID/clear_refs clears a bit in each page table entry, the kernel sets it at the first write. Clearing and reading
//     are two steps, so a process must stand still between them.
//   - compare: nothing is tracked, every page counts as written. Package image compares them with the parent's.
//
// The answer is always a superset of the pages whose content has changed: what is not known counts as written. What the
// answers do not cover is memory of shared mappings: other processes may write to it, so its content is an object of
// its own and never clean.
//
// A Tracker dies with this process without a trace in the targets: the kernel removes the write protection when the
// last descriptor of a userfaultfd is closed, and soft-dirty bits harm nobody. docs/adr/0090 to 0093 tell more.
package dirty

import (
	"fmt"
	"os"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/features"
	"github.com/bpfckpt/bpfckpt/internal/pagemap"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
)

// Names of the backends.
const (
	UffdWP    = "uffd-wp"
	SoftDirty = "soft-dirty"
	Compare   = "compare"
)

// State is what is known of a run of pages.
type State uint8

// The states.
const (
	Clean   State = iota // not written since it was armed
	Written              // written since it was armed, or not armed yet
	Guard                // a guard region (MADV_GUARD_INSTALL): without content
)

// Run is a run of pages of one state.
type Run struct {
	Start, End uint64
	State      State
}

// Span is a part of an address space, page aligned.
type Span struct {
	Start, End uint64
	// only anonymous memory lies in it: whether a page is one of a file, which takes most of the time of a walk, is not
	// asked
	Anon bool
}

// Tracker follows the writes of any number of processes. It may be kept for hours; processes may end, fork and execute
// other programs meanwhile. One goroutine at a time uses it.
//
// The runs that Dirty and Rearm report are of pages that a process has for itself: anonymous ones and those of private
// file mappings that it has changed, present or swapped out, but not the zero page. They come in ascending order. What
// is not reported by Dirty has vanished or was never there.
type Tracker interface {
	// Name is the backend's.
	Name() string

	// Attach gets ready to follow a process of g, whose threads are all stopped. It does nothing for one that is
	// followed already. A process that cannot be followed is not an error: Serves tells the reason, and all of its
	// pages are Written.
	Attach(g *ptrace.Group, pid int) error

	// Serves tells whether a process is followed, and if not, why: "" is for one never attached, or that has executed
	// another program since.
	Serves(pid int) (followed bool, why string)

	// Live tells whether Arm and Rearm may be used while the process runs.
	Live(pid int) bool

	// Arm makes every page that can be followed Clean from now on. Of a process that has not run since Dirty, written
	// may name all that Dirty reported as Written, and more; nil stands for all memory.
	Arm(pid int, written []Span) error

	// Rearm reports the pages in spans, nil for all, that were written since they were armed, and arms them in the same
	// step. Pages that cannot be armed are not reported; Dirty does. The process must run no other program since
	// Attach: then nothing is reported.
	Rearm(pid int, spans []Span, sink func(Run) error) error

	// Dirty reports all pages in spans, of a process that stands still. It changes nothing.
	Dirty(pid int, spans []Span, sink func(Run) error) error

	// Reset makes every page of a process Written. The process may run if Live says so.
	Reset(pid int) error

	// Forget ends the following of a process.
	Forget(pid int)

	// Keep forgets every process that is not one of pids.
	Keep(pids []int)

	// Base is the image, as a store's directory and an id, that holds what pages were when they were last Clean; "", ""
	// if there is none. Whoever arms outside of a complete snapshot sets it to that.
	Base() (dir, id string)
	SetBase(dir, id string)

	// Close ends everything.
	Close() error
}

// New returns a tracker of the backend prefer, or with "" of the best that a round trip proves to work here. The fault
// is E_NO_TRACKING, for a backend that does not work or does not exist.
func New(prefer string) (Tracker, error) {
	switch prefer {
	case "":
		if works("uffd_wp_async") == nil {
			return newUffd(), nil
		}
		if works("soft_dirty") == nil {
			return newSoft(), nil
		}
		return newCompare(), nil
	case UffdWP:
		if err := works("uffd_wp_async"); err != nil {
			return nil, fault.New(fault.NoTracking, UffdWP, "%w", err)
		}
		return newUffd(), nil
	case SoftDirty:
		if err := works("soft_dirty"); err != nil {
			return nil, fault.New(fault.NoTracking, SoftDirty, "%w", err)
		}
		return newSoft(), nil
	case Compare:
		return newCompare(), nil
	}
	return nil, fault.New(fault.NoTracking, prefer, "there is no such backend")
}

// works tries a feature with a round trip on a page of our own.
func works(feature string) error {
	r := features.Try(feature)
	if r.Outcome == features.Yes {
		return nil
	}
	return fmt.Errorf("%s", r.Detail)
}

// base implements the part of Tracker that is the same for all.
type base struct{ dir, id string }

func (b *base) Base() (dir, id string) { return b.dir, b.id }
func (b *base) SetBase(dir, id string) { b.dir, b.id = dir, id }

// Everything reports all content as Written; a process that runs may have other by then.
func Everything(pid int, spans []Span, sink func(Run) error) error {
	m, err := pagemap.Open(pid)
	if err != nil {
		return err
	}
	defer m.Close()
	j := joiner{sink: sink}
	for _, s := range spans {
		err := m.Walk(s.Start, s.End, pagemap.Content(s.Anon), func(r pagemap.Region) error {
			if r.Categories&pagemap.Guard != 0 {
				return j.add(Run{r.Start, r.End, Guard})
			}
			return j.add(Run{r.Start, r.End, Written})
		})
		if err != nil {
			return err
		}
	}
	return j.flush()
}

// joiner makes neighbouring runs of one state one.
type joiner struct {
	last Run
	sink func(Run) error
}

func (j *joiner) add(r Run) error {
	if j.last.End == r.Start && j.last.State == r.State && j.last.End > j.last.Start {
		j.last.End = r.End
		return nil
	}
	err := j.flush()
	j.last = r
	return err
}

func (j *joiner) flush() error {
	r := j.last
	j.last = Run{}
	if r.End == r.Start {
		return nil
	}
	return j.sink(r)
}

func clearRefs(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("4"), 0)
}
