package tracer

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/timens"
	"github.com/bpfckpt/bpfckpt/internal/view"
)

// waitProgram is what bpf/waits.h has been loaded as.
type waitProgram struct {
	prog          *ebpf.Program
	waits         *ebpf.Map
	level, tracer *ebpf.Variable
}

// waits is a kstate.Waits.
type waits struct {
	*waitProgram
	link link.Link
	own  timens.Offsets // of our time namespace
}

var (
	_ kstate.Waiter = (*Iter)(nil)
	_ kstate.Waiter = (*WatchSource)(nil)
)

// Waits implements kstate.Waiter.
func (it *Iter) Waits() (kstate.Waits, error) { return it.wait.begin(it.view) }

// Waits implements kstate.Waiter.
func (s *WatchSource) Waits() (kstate.Waits, error) { return s.w.iter.wait.begin(s.w.iter.view) }

// begin attaches the program. Nothing else may use it until it is closed.
func (p *waitProgram) begin(v *view.View) (*waits, error) {
	level, err := v.Level()
	if err != nil {
		return nil, err
	}
	w := &waits{waitProgram: p, own: v.Time}
	if err := p.level.Set(level); err != nil {
		return nil, fault.New(fault.BPFLoad, "waits", "%w", err)
	}
	if err := p.tracer.Set(int32(v.Self)); err != nil {
		return nil, fault.New(fault.BPFLoad, "waits", "%w", err)
	}
	if w.link, err = link.AttachTracing(link.TracingOptions{
		Program:    p.prog,
		AttachType: ebpf.AttachTraceRawTp,
	}); err != nil {
		return nil, loadFault("waits", err)
	}
	return w, nil
}

// Deadline implements kstate.Waits.
func (w *waits) Deadline(tid int, since int64) (at int64, ok bool) {
	var r bpf.IterWaitRec
	if err := w.waits.Lookup(uint32(tid), &r); err != nil {
		return 0, false
	}
	if int64(r.When)+w.own.Monotonic < since || r.Clock != unix.CLOCK_MONOTONIC {
		return 0, false
	}
	return r.Expires + w.own.Monotonic, true
}

// Close implements kstate.Waits. What was found is forgotten, so that a watch does not gather it.
func (w *waits) Close() error {
	if err := w.link.Close(); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	var tid, next uint32
	err := w.waits.NextKey(nil, &tid)
	for ; err == nil; tid = next {
		err = w.waits.NextKey(tid, &next) // while it is there: without it the search begins at the first place again
		if gone := w.waits.Delete(tid); gone != nil {
			return fmt.Errorf("forget thread %d: %w", tid, gone)
		}
	}
	return nil
}
