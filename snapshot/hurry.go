package snapshot

import (
	"math"
	"runtime/debug"
	"runtime/metrics"
	"sync"

	"github.com/bpfckpt/bpfckpt/internal/ptrace"
)

// hurry has this goroutine run before others, and the garbage collector wait, until calm is called: while a process
// stands still for us. calm must be called by the same goroutine; more than once does no harm.
func hurry() (calm func()) {
	resume := collector.hold()
	slow := ptrace.Hurry()
	return sync.OnceFunc(func() {
		slow()
		resume()
	})
}

// collectorRoom is how much garbage, bytes, may gather while the collector waits; with more it runs.
const collectorRoom = 128 << 20

// collector is the garbage collector, which has one setting for all. Its workers take a processor each, and who
// allocates must help them: the state of a process with 10,000 mappings takes 11 ms to read without it and 16 with.
var collector pauser

type pauser struct {
	mu      sync.Mutex
	holders int
	percent int
	limit   int64

	lenient int // snapshots under way
	strict  int // the percentage outside of them
}

// lenientPercent is how much garbage, of what is in use, sets off the collector during a snapshot. Little is in use,
// and page maps and buffers are a few MiB: at the usual 100% it would run several times in the 50 ms that a small image
// takes, and make them 55.
const lenientPercent = 400

// relax has the collector run less often until resume is called. Whoever holds it must do so between the two.
func (p *pauser) relax() (resume func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lenient++; p.lenient == 1 {
		// it was told so: GOGC
		if p.strict = debug.SetGCPercent(lenientPercent); p.strict < 0 || p.strict > lenientPercent {
			debug.SetGCPercent(p.strict)
		}
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.lenient--; p.lenient == 0 {
			debug.SetGCPercent(p.strict)
		}
	}
}

func (p *pauser) hold() (resume func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holders++; p.holders == 1 {
		p.limit = debug.SetMemoryLimit(min(debug.SetMemoryLimit(-1), used()+collectorRoom))
		p.percent = debug.SetGCPercent(-1)
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.holders--; p.holders == 0 {
			debug.SetGCPercent(p.percent)
			debug.SetMemoryLimit(p.limit)
		}
	}
}

// used is what counts against the memory limit, bytes.
func used() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	for i := range s {
		if s[i].Value.Kind() != metrics.KindUint64 {
			return math.MaxInt64 - collectorRoom
		}
	}
	return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
}
