package snapshot

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/kstate/proc"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
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

// stateSource is where a session has the state of the kernel from.
type stateSource struct {
	lent   kstate.Source                 // Options.Live; nil to open one of our own
	opened func() (kstate.Source, error) // waits for the source that is being opened; nil before begin

	kstate.Source // nil before open

	waits kstate.Waits  // nil if nobody can tell how long calls with a timeout would wait
	ended chan struct{} // closed when what waits has attached is gone; nil before endWaits
}

// begin starts to open the source of that name, or takes the one that is lent.
func (s *stateSource) begin(name string) {
	if s.lent != nil {
		s.opened = func() (kstate.Source, error) { return borrowed{s.lent}, nil }
		return
	}
	s.opened = opening(name)
}

// open waits until it is open.
func (s *stateSource) open() (err error) {
	s.Source, err = s.opened()
	return err
}

// prepare gets a lent source ready as the last thing before the freeze.
func (s *stateSource) prepare(ctx context.Context) error {
	if p, ok := s.lent.(preparer); ok {
		return p.Prepare(ctx)
	}
	return nil
}

// breakpoints asks a lent source for its breakpoints; nil if it tells of none.
func (s *stateSource) breakpoints(ctx context.Context) (map[inode][]int64, error) {
	p, ok := s.lent.(kstate.Prober)
	if !ok {
		return nil, nil
	}
	list, err := p.Breakpoints(ctx)
	if err != nil {
		return nil, err
	}
	points := map[inode][]int64{}
	for _, b := range list {
		key := inode{b.Dev, b.Ino}
		points[key] = append(points[key], b.Offset)
	}
	return points, nil
}

// beginWaits has the source look at calls with a timeout that a stop by the tracer ends. Where it cannot, they end:
// docs/time.md.
func (s *stateSource) beginWaits(tr *ptrace.Tracer) {
	src := s.Source
	if s.lent != nil {
		src = s.lent
	}
	w, ok := src.(kstate.Waiter)
	if !ok {
		return
	}
	waits, err := w.Waits()
	if err != nil {
		return
	}
	s.waits, tr.Deadlines = waits, waits
}

// endWaits ends what beginWaits began, in the background: to detach a program the kernel waits for all CPUs, 10 ms or
// more.
func (s *stateSource) endWaits() {
	if s.waits == nil {
		return
	}
	waits, ended := s.waits, make(chan struct{})
	s.waits, s.ended = nil, ended
	go func() {
		_ = waits.Close() // its objects go with its descriptors
		close(ended)
	}()
}

// detach ends the waits, and waits for that.
func (s *stateSource) detach() {
	s.endWaits()
	if s.ended != nil {
		<-s.ended
	}
}

// close closes the source if it is ours, as soon as it is open.
func (s *stateSource) close() {
	if s.opened == nil {
		return
	}
	if src, err := s.opened(); err == nil {
		_ = src.Close() // its objects go with its descriptors
	}
}

// opening starts openSource in the background and returns a function that waits for its result: loading BPF programs
// takes longer than all else that comes before a freeze.
func opening(name string) func() (kstate.Source, error) {
	open := sync.OnceValues(func() (kstate.Source, error) { return openSource(sources(), name) })
	go func() { _, _ = open() }() // the result stays in open
	return open
}

// preparer is a source that has something to do before a freeze.
type preparer interface {
	Prepare(ctx context.Context) error
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
