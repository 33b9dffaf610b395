// Package collector keeps Go's garbage collector out of the way while processes wait for us. It has one setting for the
// whole program, so whoever changes it does so here.
package collector

import (
	"math"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// room is how much garbage, bytes, may gather while the collector waits; with more it runs.
const room = 128 << 20

var shared pauser

type pauser struct {
	mu      sync.Mutex
	holders int
	percent int
	limit   int64

	lenient int // Relax calls in force
	strict  int // the percentage outside of them
}

// lenientPercent is how much garbage, of what is in use, sets off the collector during a snapshot or a restore. Little
// is in use, and page maps and buffers are a few MiB: at the usual 100% it would run several times in the 50 ms that a
// small image takes, and make them 55; of the 9 ms of a small restore it takes 1.5.
const lenientPercent = 400

// Relax has the collector run less often until resume is called.
func Relax() (resume func()) { return shared.relax() }

// Hold has the collector wait until resume is called: while a process stands still for us. Its workers take a processor
// each, and who allocates must help them: the state of a process with 10,000 mappings takes 11 ms to read without it
// and 16 with. Between Relax and its resume only.
func Hold() (resume func()) { return shared.hold() }

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
		p.limit = debug.SetMemoryLimit(min(debug.SetMemoryLimit(-1), used()+room))
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
			return math.MaxInt64 - room
		}
	}
	return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
}
