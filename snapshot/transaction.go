package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/collector"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// Transaction is one snapshot, phase by phase, for whoever has more than one to take at one moment, or something to do
// between the phases: Prepare, Freeze, Capture and Commit, in this order and each once. Snap goes the same way.
//
//	after    the tree                   the image            what it may wait for
//	Begin    runs                       is not begun         nothing
//	Prepare  runs, or is held back      nobody can see       disk, page server, critical sections
//	Freeze   stands still               nobody can see       critical sections, threads that do not stop
//	Capture  runs; stands still to be   nobody can see, but  disk
//	         stopped or killed          it is whole
//	Commit   runs, is stopped, or dead  is published         disk, killed processes to end
//	Abort    runs                       is gone              threads of ours that are at work for it
//
// A phase that fails has aborted: the tree runs on, as if nothing had happened. Its error is *Error, or a fault.List of
// them if several things keep the tree from being saved; when its context ends early it is fault.Interrupt. A phase out
// of its turn is ErrOrder, and changes nothing. The contexts of the phases need not be the same one.
//
// All methods are called by one goroutine: from Freeze to Capture, or Abort, it keeps its thread, which runs before
// others. If this process dies, the tree runs on.
type Transaction struct {
	s     *session
	turn  phase
	over  bool
	begun time.Time
	relax func() // ends the leniency of the garbage collector
}

// ErrOrder is wrapped by the error of a phase that is called out of its turn.
var ErrOrder = errors.New("the phases of a snapshot come one after the other, each once")

// phase is a phase of a transaction.
type phase int

const (
	phasePrepare phase = iota
	phaseFreeze
	phaseCapture
	phaseCommit
)

// Begin makes the transaction of a snapshot of the tree below and including pid. It looks at the options only; nothing
// has to be undone.
func Begin(pid int, o Options) (*Transaction, error) {
	if o.Stop && o.Kill {
		return nil, fault.New(fault.BadOption, "", "stop and kill exclude each other")
	}
	if err := o.Policy.Valid(); err != nil {
		return nil, err
	}
	if o.Dir == "" {
		o.Dir = fmt.Sprintf("ckpt-%d", pid)
	}
	return &Transaction{s: newSession(pid, o), relax: func() {}}, nil
}

// Prepare does all that needs no tree that stands still: it refuses what can be refused from outside, opens the source
// of kernel state, begins the image, gets buffers ready, and with pre-copy copies the memory. The tree runs; for the
// tracking of its writes it stands still for a millisecond or so. One that writes faster than it can be copied is held
// back from here on until it is frozen, in slices no longer than Options.MaxFreeze: Freeze should follow soon.
//
// It waits for the pages of a lazy restore to come, for as long as ctx lets it, and up to ten seconds for the tree to
// leave its critical sections (include/bpfckpt.h).
func (t *Transaction) Prepare(ctx context.Context) error {
	s := t.s
	return t.take(phasePrepare, func() error {
		t.begun, t.relax = time.Now(), collector.Relax()
		if err := s.awaitFirst(ctx); err != nil {
			return err
		}
		if err := timed(&s.res.Phases.Prepare, func() error { return s.prepare(ctx) }); err != nil {
			return err
		}
		if s.track.tr != nil {
			if err := s.precopy(ctx); err != nil {
				return err
			}
		}
		return timed(&s.res.Phases.Prepare, func() error { return s.prepareSource(ctx) })
	})
}

// Freeze stops every thread of the tree, at a moment when none is in a critical section, and reads all of its state but
// memory; so it is known then what cannot be saved. The tree stands still until Capture is done with it, or Abort: the
// time counts for Options.MaxFreeze.
//
// It waits up to ten seconds for the tree to leave its critical sections, and up to two, in four attempts, for threads
// that cannot be stopped at once; between the attempts the tree runs.
func (t *Transaction) Freeze(ctx context.Context) error {
	return t.take(phaseFreeze, func() error { return t.s.freezeOutside(ctx) })
}

// Capture copies the memory of the tree and lets it run on, but with Options.Stop or Kill; then it reads what needs no
// tree that stands still, and writes the image as far as that goes without publishing it. After it nothing of the tree
// is needed any more, and what may still fail is the disk.
//
// While the tree stands still it reads memory, and files of the tree that have no name; what has no room in our memory
// goes to the disk. It gives up at Options.MaxFreeze.
func (t *Transaction) Capture(ctx context.Context) error {
	s := t.s
	return t.take(phaseCapture, func() error {
		if err := s.copyMemory(ctx); err != nil {
			return err
		}
		s.calm()
		s.throttle.report(s.res)
		if err := timed(&s.res.Phases.Files, func() error { return s.complete(ctx) }); err != nil {
			return err
		}
		return timed(&s.res.Phases.Encode, func() error { return s.memory.encode(ctx) })
	})
}

// Commit writes the rest of the image, reads it back and publishes it; then it stops or kills the tree if the options
// say so. Without an error the image is durable. The result comes with an error if only that is published, and the tree
// could not be stopped or killed, or a killed process has not ended within five seconds.
func (t *Transaction) Commit(ctx context.Context) (r *Result, err error) {
	s := t.s
	err = t.take(phaseCommit, func() error {
		defer t.Abort() // what is published stays
		info, err := s.publish(ctx)
		if err != nil {
			return err
		}
		r = s.res
		r.published(info, s.st)
		return s.finish()
	})
	if r != nil {
		r.WallUS = time.Since(t.begun).Microseconds()
	}
	return r, err
}

// Abort gives the snapshot up: the tree runs on if it stands still, and what has been made of the image is removed. It
// may be called between any two phases, after a panic in one, and after the end, also more than once: Commit and a phase
// that fails have done it themselves. A phase that is under way is ended by its context.
func (t *Transaction) Abort() {
	if t.over {
		return
	}
	t.over = true
	_ = t.s.tree.letGo() // first: what waited for us runs on before anything of ours does
	t.s.calm()
	t.s.close()
	t.relax()
}

// take runs a phase if it is its turn, and aborts if it fails.
func (t *Transaction) take(is phase, run func() error) error {
	if t.over || t.turn != is {
		return fault.New(fault.Internal, pidName(t.s.tree.pid), "%w", ErrOrder)
	}
	t.turn++
	if err := run(); err != nil {
		t.Abort()
		return interrupted(err)
	}
	return nil
}

// copyMemory copies the memory of the frozen tree, and lets it run on if it may.
func (s *session) copyMemory(ctx context.Context) error {
	if err := s.tree.overdue(); err != nil {
		return err
	}
	s.memory = newMemoryCopy(s)
	if err := timed(&s.res.Phases.Memory, func() error {
		if err := s.memory.copy(ctx); err != nil || s.opts.Kill {
			return err
		}
		return s.track.rearm(s.tree)
	}); err != nil {
		return err
	}
	if s.opts.Stop || s.opts.Kill {
		return nil
	}
	if err := s.thaw(); err != nil {
		return err
	}
	s.source.endWaits()
	return nil
}

// publish makes the image one that others see.
func (s *session) publish(ctx context.Context) (info image.Info, err error) {
	err = timed(&s.res.Phases.Publish, func() (err error) {
		if err = ctx.Err(); err != nil {
			return err
		}
		freeze := s.res.FreezeUS * int64(time.Microsecond)
		if s.tree.group != nil { // to be stopped or killed: from here on it does not stand still for us
			freeze = time.Since(s.tree.frozenAt).Nanoseconds()
		}
		s.writer.Note(image.Notes{Freeze: freeze, Tracking: s.res.Tracking})
		if info, err = s.writer.Commit(s.st); err == nil {
			s.track.settle(info, s.opts.Kill)
		}
		return err
	})
	return info, err
}

// published completes the result with what the published image tells.
func (r *Result) published(info image.Info, st *model.State) {
	r.Dir, r.ID, r.Name, r.Parent = info.Dir, info.ID, info.Name, info.Parent
	r.PagesWritten, r.PagesZero, r.PagesShared = info.PagesWritten, info.PagesZero, info.PagesShared
	r.BytesRaw, r.BytesWritten = info.BytesRaw, info.BytesWritten
	for i := range st.Processes {
		r.Pids = append(r.Pids, st.Processes[i].Pid)
	}
}
