package snapshot

import (
	"context"
	"errors"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
)

// fakeSource is a source that counts what is asked of it.
type fakeSource struct {
	kstate.Source
	closed, prepared, ended int
	points                  []kstate.Breakpoint
	err                     error
}

func (f *fakeSource) Close() error                  { f.closed++; return nil }
func (f *fakeSource) Prepare(context.Context) error { f.prepared++; return f.err }
func (f *fakeSource) Waits() (kstate.Waits, error)  { return fakeWaits{ended: &f.ended}, f.err }
func (f *fakeSource) Breakpoints(context.Context) ([]kstate.Breakpoint, error) {
	return f.points, f.err
}

type fakeWaits struct {
	kstate.Waits
	ended *int
}

func (w fakeWaits) Close() error { *w.ended++; return nil }

// A source that is lent is made ready and asked, and is open at the end; what it has attached for us is gone.
func TestLentSourceStaysOpen(t *testing.T) {
	f := &fakeSource{points: []kstate.Breakpoint{{Dev: 1, Ino: 2, Offset: 3}, {Dev: 1, Ino: 2, Offset: 4}}}
	s := &stateSource{lent: f}
	s.begin("iter")
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	if err := s.prepare(t.Context()); err != nil || f.prepared != 1 {
		t.Errorf("it was made ready %d times, %v", f.prepared, err)
	}
	points, err := s.breakpoints(t.Context())
	if err != nil || len(points) != 1 || len(points[inode{1, 2}]) != 2 {
		t.Errorf("breakpoints %v, %v", points, err)
	}
	tr := &ptrace.Tracer{}
	s.beginWaits(tr)
	if s.waits == nil || tr.Deadlines == nil {
		t.Error("it is not asked for the calls that wait")
	}
	s.endWaits()
	s.endWaits()
	s.detach()
	s.close()
	if f.ended != 1 || f.closed != 0 {
		t.Errorf("the waits were ended %d times, the source closed %d times", f.ended, f.closed)
	}
}

// A source that cannot say where its breakpoints are has none that are known, which is not the same as none.
func TestSourceThatFails(t *testing.T) {
	broken := errors.New("broken")
	f := &fakeSource{err: broken}
	s := &stateSource{lent: f}
	if err := s.prepare(t.Context()); !errors.Is(err, broken) {
		t.Errorf("made ready: %v", err)
	}
	if points, err := s.breakpoints(t.Context()); !errors.Is(err, broken) || points != nil {
		t.Errorf("breakpoints %v, %v", points, err)
	}
	s.beginWaits(&ptrace.Tracer{})
	if s.waits != nil {
		t.Error("waits that failed are there")
	}
	s.detach() // nothing was begun: it must not wait
	s.close()
	none := &stateSource{}
	if points, err := none.breakpoints(t.Context()); points != nil || err != nil {
		t.Errorf("nobody told of breakpoints %v, %v", points, err)
	}
	none.detach()
	none.close()
}
