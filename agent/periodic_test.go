package agent

import (
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/snapshot"
)

// The interval achieved is that of the last few images, whatever was asked for.
func TestIntervalAchieved(t *testing.T) {
	s := Saves{Dir: "job", NextUS: 2_000_000}
	s.add(Outcome{Result: &snapshot.Result{}}, time.Second)
	if s.RealUS != 0 {
		t.Errorf("after one image: %d us", s.RealUS)
	}
	for i := range 3 * savesKept {
		s.add(Outcome{Result: &snapshot.Result{}}, time.Minute+time.Duration(i)*3*time.Second)
	}
	if s.RealUS != 3_000_000 {
		t.Errorf("%d us from one image to the next", s.RealUS)
	}
}
