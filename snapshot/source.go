package snapshot

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/kstate/proc"
	"github.com/bpfckpt/bpfckpt/tracer"
)

// opener makes a source, or says why it cannot.
type opener struct {
	name string
	open func() (kstate.Source, error)
}

// sources lists the sources of kernel state, the best first.
func sources() []opener {
	return []opener{
		{"iter", func() (kstate.Source, error) { return tracer.NewIter() }},
		{"proc", func() (kstate.Source, error) { return proc.New() }},
	}
}

// opening starts openSource in the background and returns a function that waits for its result: loading BPF programs
// takes longer than all else that comes before a freeze.
func opening(name string) func() (kstate.Source, error) {
	open := sync.OnceValues(func() (kstate.Source, error) { return openSource(sources(), name) })
	go func() { _, _ = open() }() // the result stays in open
	return open
}

// lent returns a source that is someone else's to close.
func lent(src kstate.Source) func() (kstate.Source, error) {
	return func() (kstate.Source, error) { return borrowed{src}, nil }
}

// preparer is a source that has something to do before a freeze.
type preparer interface {
	Prepare(ctx context.Context) error
}

// prepareSource gets a lent source ready as the last thing before the freeze, and asks it for its breakpoints.
func (s *session) prepareSource(ctx context.Context) error {
	if p, ok := s.opts.Live.(preparer); ok {
		if err := p.Prepare(ctx); err != nil {
			return err
		}
	}
	s.tree.tracer.Foresee(s.live)
	return s.learnBreakpoints(ctx)
}

// beginWaits has the source look at calls with a timeout that a stop ends. Where it cannot, they end: docs/time.md.
func (s *session) beginWaits() {
	src := s.source
	if s.opts.Live != nil {
		src = s.opts.Live
	}
	w, ok := src.(kstate.Waiter)
	if !ok {
		return
	}
	waits, err := w.Waits()
	if err != nil {
		return
	}
	s.waits, s.tree.tracer.Deadlines = waits, waits
}

// endWaits ends what beginWaits began, in the background: to detach a program the kernel waits for all CPUs, 10 ms or
// more.
func (s *session) endWaits() {
	if s.waits == nil {
		return
	}
	waits, ended := s.waits, make(chan struct{})
	s.waits, s.waitsEnded = nil, ended
	go func() {
		_ = waits.Close() // its objects go with its descriptors
		close(ended)
	}()
}

// learnBreakpoints asks a lent source for its breakpoints.
func (s *session) learnBreakpoints(ctx context.Context) error {
	p, ok := s.opts.Live.(kstate.Prober)
	if !ok {
		return nil
	}
	points, err := p.Breakpoints(ctx)
	if err != nil {
		return err
	}
	s.code.points = map[inode][]int64{}
	for _, b := range points {
		key := inode{b.Dev, b.Ino}
		s.code.points[key] = append(s.code.points[key], b.Offset)
	}
	return nil
}

// borrowed is a source that Close leaves open.
type borrowed struct{ kstate.Source }

// Close does nothing.
func (borrowed) Close() error { return nil }

// openSource opens the source with the given name, or, for "", the first of all that can be opened.
func openSource(from []opener, name string) (kstate.Source, error) {
	var errs []error
	var names []string
	for _, o := range from {
		names = append(names, o.name)
		if name != "" && o.name != name {
			continue
		}
		src, err := o.open()
		if err == nil {
			return src, nil
		}
		if name != "" {
			return nil, fault.New(fault.NoSource, "source "+name, "%w", err)
		}
		errs = append(errs, err)
	}
	if name != "" {
		return nil, fault.New(fault.BadOption, "source "+name, "the sources are %s", strings.Join(names, ", "))
	}
	return nil, fault.New(fault.NoSource, "", "%w", errors.Join(errs...))
}
