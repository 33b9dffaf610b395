package tracer

import (
	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// part is something all threads of a process must share, and no two processes may.
type part struct {
	name string
	of   func(*bpf.IterThreadRec) uint64
}

var parts = []part{
	{"memory", func(t *bpf.IterThreadRec) uint64 { return t.Mm }},
	{"descriptors", func(t *bpf.IterThreadRec) uint64 { return t.Files }},
	{"directories and umask", func(t *bpf.IterThreadRec) uint64 { return t.Fs }},
	{"signal handlers", func(t *bpf.IterThreadRec) uint64 { return t.Sighand }},
}

// processBlockers reports state of one process that an image cannot hold.
func (b *builder) processBlockers(raw *rawProcess) {
	name := pidName(raw.pid)
	if raw.process.Vfork != 0 {
		b.block(fault.Shared, name, "it is a vfork child: its parent waits for it to call execve or to end")
	}
	if raw.mm.HasLdt != 0 {
		b.block(fault.ThreadState, name, "it has a local descriptor table (modify_ldt)")
	}
	if raw.mm.AioRings != 0 {
		b.block(fault.ProcessState, name, "it has asynchronous I/O contexts (io_setup)")
	}
	if n := raw.process.TimersOver; n != 0 {
		b.block(fault.ProcessState, name, "it has %d POSIX timers, %d more than can be read", raw.process.Timers+n, n)
	}
	b.splits(raw)
}

// splits reports threads that do not share with their leader what an image takes for shared.
func (b *builder) splits(raw *rawProcess) {
	var first *bpf.IterThreadRec
	for i := range raw.threads {
		t := &raw.threads[i]
		if t.ExitState != 0 {
			continue
		}
		if first == nil {
			first = t
			continue
		}
		for _, p := range parts {
			if p.of(t) != p.of(first) {
				b.block(fault.Shared, threadOf(raw.pid, t), "it has other %s than thread %d", p.name, first.Tid)
			}
		}
	}
}

// sharing reports processes of the collection that share what only threads may share.
func (b *builder) sharing() {
	for _, p := range parts {
		owner := map[uint64]int{}
		for _, raw := range b.raws {
			seen := map[uint64]bool{}
			for i := range raw.threads {
				id := p.of(&raw.threads[i])
				if id == 0 || seen[id] {
					continue
				}
				seen[id] = true
				if other, taken := owner[id]; taken {
					b.block(fault.Shared, pidName(raw.pid), "it shares its %s with pid %d", p.name, other)
					continue
				}
				owner[id] = raw.pid
			}
		}
	}
}
