package snapshot

import (
	"context"
	"sync"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
)

// throttle slows a tree down that writes faster than it can be copied: it stops all of its threads for a part of the
// time, in slices that are no longer than the final freeze may be. All that happens to the tree is that it is stopped
// and let go. docs/adr/0094 tells why this and not a forked copy.
//
// Its methods are called by one goroutine. The stopping is done by another, with a tracer of its own.
type throttle struct {
	ctx   context.Context
	pids  []int
	slice time.Duration // the longest that the tree may stand still at once
	waits kstate.Waits  // as in session

	hard   int // how many times harder was called
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has let go of everything

	mu   sync.Mutex
	used Throttle
}

// Throttle tells how a tree was slowed down during pre-copy. Times are microseconds.
type Throttle struct {
	Slices  int   `json:"slices"`     // how often it stood still
	Longest int64 `json:"longest_us"` // the longest of them
	Total   int64 `json:"total_us"`
}

// throttleShares are the shares of time for which the tree stands still, one after the other.
var throttleShares = [...]float64{0.5, 0.8, 0.95}

// throttleSafety is the share of the allowed time after which a slice ends: letting go takes its time too.
const throttleSafety = 0.7

// harder throttles harder than before, and reports whether that was possible.
func (th *throttle) harder() bool {
	if th.hard == len(throttleShares) {
		return false
	}
	th.release()
	share := throttleShares[th.hard]
	th.hard++
	ctx, cancel := context.WithCancel(th.ctx)
	th.cancel, th.done = cancel, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		th.run(ctx, share)
	}(th.done)
	return true
}

// release lets the tree run freely. It may be called at any time.
func (th *throttle) release() {
	if th == nil || th.cancel == nil {
		return
	}
	th.cancel()
	<-th.done
	th.cancel = nil
}

// run stops and lets go until ctx ends.
func (th *throttle) run(ctx context.Context, share float64) {
	defer ptrace.Hurry()()
	for ctx.Err() == nil {
		begun := time.Now()
		th.stand(ctx, begun.Add(time.Duration(throttleSafety*float64(th.slice))))
		stood := max(time.Since(begun), time.Millisecond)
		pause(ctx, time.Duration(float64(stood)*(1-share)/share))
	}
}

// stand is one slice. If a thread does not stop in time, or a process ends, the tree runs on, and the next slice may do
// better.
func (th *throttle) stand(ctx context.Context, until time.Time) {
	t := ptrace.New()
	defer t.Close() // detaches also what stops only after we have given up
	t.Hurry()
	if th.waits != nil {
		t.Deadlines = th.waits
	}
	begun := time.Now()
	g, err := t.Freeze(ctx, th.pids, time.Until(until))
	if err != nil {
		return
	}
	pause(ctx, time.Until(until))
	_ = g.Thaw() // it fails for a thread that is gone
	th.count(time.Since(begun))
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (th *throttle) count(took time.Duration) {
	th.mu.Lock()
	defer th.mu.Unlock()
	th.used.Slices++
	th.used.Total += took.Microseconds()
	th.used.Longest = max(th.used.Longest, took.Microseconds())
}

// report adds what the throttle did to the result.
func (th *throttle) report(r *Result) {
	if th == nil || th.hard == 0 {
		return
	}
	th.mu.Lock()
	defer th.mu.Unlock()
	used := th.used
	r.Throttle = &used
	r.note("it writes faster than it can be copied, so it was held back for %v during pre-copy, at most %v at once",
		time.Duration(used.Total*1000).Round(time.Millisecond),
		time.Duration(used.Longest*1000).Round(100*time.Microsecond))
}
