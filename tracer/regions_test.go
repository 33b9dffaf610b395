package tracer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
)

// regionsOf starts a case of the program regions under a watch.
func regionsOf(t *testing.T, which string, opts WatchOptions) (*target, *WatchSource) {
	t.Helper()
	tg := start(t, "regions", which)
	w := watchTarget(t, tg, opts)
	s, err := w.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Regions != 2 {
		t.Fatalf("%d probes, not one for hold and one for release", s.Regions)
	}
	return tg, w.Source()
}

func (tg *target) touch(t testing.TB, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(tg.dir, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func heldBy(t testing.TB, src *WatchSource, pids ...int) kstate.Held {
	t.Helper()
	h, err := src.Held(t.Context(), pids)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestHeld follows a thread into two regions and out of them: with a ring that holds everything, and one that loses
// most.
func TestHeld(t *testing.T) {
	for _, ring := range []int{0, smallRing} {
		tg, src := regionsOf(t, "never", WatchOptions{RingBytes: ring})
		if h := heldBy(t, src, tg.pid); len(h.Threads) != 0 || len(h.Unsure) != 1 {
			t.Errorf("before: %+v; it ran before the watch, and is not in a region that was seen", h)
		}
		tg.release(t)
		until(t, "two regions", func() bool {
			h := heldBy(t, src, tg.pid)
			return len(h.Threads) == 1 && h.Threads[0].Depth == 2
		})
		if h := heldBy(t, src, tg.pid).Threads[0]; h.Pid != tg.pid || h.Tid != tg.pid || h.For <= 0 ||
			h.For > time.Hour {
			t.Errorf("which thread, since when: %+v", h)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if err := src.AwaitRelease(ctx, []int{tg.pid}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the wait ended, though it is inside: %v", err)
		}
		cancel()
		released := make(chan error, 1)
		go func() { released <- src.AwaitRelease(t.Context(), []int{tg.pid}) }()
		tg.touch(t, "done")
		if err := <-released; err != nil && !strings.Contains(err.Error(), "E_TARGET_GONE") {
			t.Errorf("the wait for the end: %v", err)
		}
	}
}

// TestHeldAtStart: a watch that is there before the first instruction knows everything.
func TestHeldAtStart(t *testing.T) {
	// the program has not come to its first region
	tg, src := regionsOf(t, "never", WatchOptions{AtStart: true, NoDL: true})
	if h := heldBy(t, src, tg.pid); len(h.Threads)+len(h.Unsure) != 0 {
		t.Errorf("%+v", h)
	}
}

// TestHeldFrozen stops a program again and again, and holds what is told against its memory: outside of regions the
// counters of each thread are equal.
func TestHeldFrozen(t *testing.T) {
	tg, src := regionsOf(t, "threads", WatchOptions{})
	src.Guard()
	at, err := strconv.ParseUint(strings.TrimPrefix(tg.said[0], "pairs "), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	tg.release(t)
	inside, outside, differ := 0, 0, 0
	for range scale(300) {
		g, thaw := tg.stop(t)
		_, err := src.Collect(t.Context(), []int{tg.pid}, g)
		held := errors.As(err, new(*kstate.HeldError))
		if err != nil && !held {
			t.Error(err)
		}
		words := wordBuffer(256)
		err = (&ptrace.Thread{Pid: tg.pid, Tid: tg.pid}).Peek(at, words)
		thaw()
		if err != nil {
			t.Fatal(err)
		}
		first, second := recordOf[[2]uint64](words), recordOf[[2]uint64](words[128:])
		equal := first[0] == first[1] && second[0] == second[1]
		switch {
		case held:
			inside++
		case !equal:
			t.Errorf("nobody is inside, and the counters are %v and %v", *first, *second)
		default:
			outside++
		}
		if !equal {
			differ++
		}
		time.Sleep(300 * time.Microsecond)
	}
	t.Logf("%d times inside, %d outside; %d times the counters differed", inside, outside, differ)
	if inside == 0 || differ == 0 {
		t.Error("never inside, though it is most of the time")
	}
}
