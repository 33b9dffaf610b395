package snapshot

import (
	"github.com/bpfckpt/bpfckpt/internal/sigs"
	"github.com/bpfckpt/bpfckpt/model"
)

// expired completes the repeating timers whose signal is pending where the source could not tell since when: at least
// one period ended, the time that is left of the current one tells how long ago.
func expired(p *model.Process) {
	for i := range p.Timers {
		t := &p.Timers[i]
		if t.Expired != 0 || t.Interval == 0 || t.Left == 0 {
			continue
		}
		waiting := sigs.OfTimer(p.Pending, t.ID)
		for j := range p.Threads {
			waiting = waiting || sigs.OfTimer(p.Threads[j].Pending, t.ID)
		}
		if waiting {
			t.Expired = max(t.Interval-t.Left, 1)
		}
	}
}
