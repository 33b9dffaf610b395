package collector

import (
	"runtime/debug"
	"sync"
	"testing"
)

// Snapshots of two processes at once: the collector waits until the last of them is done, and then is as it was.
func TestCollectorWaits(t *testing.T) {
	set := func() (percent int, limit int64) {
		percent = debug.SetGCPercent(-1)
		debug.SetGCPercent(percent)
		return percent, debug.SetMemoryLimit(-1)
	}
	percent, limit := set()
	one, other := Relax(), Relax()
	if p, l := set(); p != max(percent, lenientPercent) || l != limit {
		t.Errorf("while snapshots are taken: %d%%, limit %d", p, l)
	}
	first := sync.OnceFunc(Hold())
	second := Hold()
	if p, l := set(); p != -1 || l >= limit || l < room {
		t.Errorf("held: %d%%, limit %d", p, l)
	}
	first()
	first()
	if p, _ := set(); p != -1 {
		t.Errorf("held by one of two: %d%%", p)
	}
	second()
	one()
	if p, l := set(); p != max(percent, lenientPercent) || l != limit {
		t.Errorf("while one more is taken: %d%%, limit %d", p, l)
	}
	other()
	if p, l := set(); p != percent || l != limit {
		t.Errorf("afterwards: %d%%, limit %d; it was %d%%, %d", p, l, percent, limit)
	}
}
