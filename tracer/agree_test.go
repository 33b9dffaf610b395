package tracer

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate/proc"
	"github.com/bpfckpt/bpfckpt/model"
)

// TestSourcesAgree freezes each case of the test programs and holds the two sources against each other, field by field.
// What package proc asks the process itself by system calls, the iterators read out of kernel memory.
func TestSourcesAgree(t *testing.T) {
	it := newIter(t)
	other, err := proc.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"sleeps"}, stateful...) {
		for _, c := range casesOf(t, name) {
			if c == "overrun" {
				continue // the other source cannot count how often the waiting signal was due, and refuses
			}
			t.Run(name+"/"+c, func(t *testing.T) {
				tg := start(t, name, c)
				if name == "sleeps" {
					time.Sleep(50 * time.Millisecond) // READY comes just before the call
				}
				g := tg.freeze(t)
				mine, err := it.Collect(t.Context(), []int{tg.pid}, g)
				if err != nil {
					t.Fatal(err)
				}
				theirs, err := other.Collect(t.Context(), []int{tg.pid}, g)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(theirs, mine, tolerant()...); d != "" {
					t.Errorf("proc (-) and iter (+) differ:\n%s", d)
				}
			})
		}
	}
}

// tolerant lists what may differ: times that go on, and the time left that /proc does not tell.
func tolerant() []cmp.Option {
	near := func(name string, by float64) cmp.Option {
		return cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == "."+name },
			cmp.Comparer(func(a, b int64) bool {
				return math.Abs(float64(a-b)) <= by && (a == 0) == (b == 0)
			}))
	}
	options := []cmp.Option{
		cmpopts.IgnoreFields(model.Usage{}, "UTime", "STime", "Wall", "NVCSw", "NIvCSw", "MaxRSS"),
		cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".MinFlt" },
			cmp.Comparer(func(a, b uint64) bool { return max(a, b)-min(a, b) < 128 })),
		cmp.Comparer(func(a, b model.Restart) bool {
			// What the kernel wrote for a sleeper is as of its interruption; the iterators count from a moment later.
			sameLeft := math.Abs(float64(a.Left-b.Left)) <= 1e9 || !a.Exact || !b.Exact
			a.Left, a.Exact = b.Left, b.Exact
			return a == b && sameLeft
		}),
		near("Left", 1e9), near("Value", 1e9), cmpopts.EquateEmpty(),
		// /proc does not tell since when a timer's signal is pending, nor that a timer was set to a date.
		cmpopts.IgnoreFields(model.PosixTimer{}, "Expired", "Date"),
		cmpopts.IgnoreFields(model.File{}, "Unlocked", "Expiry"), // a hint, as good as each can give it
		cmp.Comparer(func(a, b *fault.Error) bool { return a.Error() == b.Error() }),
	}
	// Linux 6.1 does not tell whether a process is registered for the global membarrier; then proc assumes it
	if guest() {
		options = append(options, cmpopts.IgnoreFields(model.MM{}, "Membarrier"))
	}
	return options
}
