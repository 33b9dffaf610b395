package interval

import (
	"math"
	"strings"
	"testing"
	"time"
)

// lost is the share of time that a job loses: snapshots, and half an interval at each failure, exactly for failures
// that come at random (Daly 2006, equation 20, without a restart time).
func lost(t, cost, mtbf time.Duration) float64 {
	m := mtbf.Seconds()
	return m*(math.Exp((t+cost).Seconds()/m)-1)/t.Seconds() - 1
}

// TestDalyIsBest holds the formula against its neighbours.
func TestDalyIsBest(t *testing.T) {
	for _, mtbf := range []time.Duration{time.Minute, time.Hour, 24 * time.Hour} {
		for _, cost := range []time.Duration{10 * time.Millisecond, time.Second, 5 * time.Second} {
			best := Daly(cost, mtbf)
			for _, factor := range []float64{0.7, 1.4} {
				other := time.Duration(factor * float64(best))
				if lost(other, cost, mtbf) < lost(best, cost, mtbf) {
					t.Errorf("cost %v, mtbf %v: %v loses %g, %v only %g", cost, mtbf, best, lost(best, cost, mtbf),
						other, lost(other, cost, mtbf))
				}
			}
		}
	}
	if got := Daly(time.Hour, time.Minute); got != time.Minute {
		t.Errorf("a snapshot that lasts longer than the machine: %v", got)
	}
}

func TestAuto(t *testing.T) {
	a := Auto{MTBF: 24 * time.Hour, CPUs: 2}
	if a.Next() != first || !strings.Contains(a.String(), "10s") {
		t.Errorf("at first %v: %s", a.Next(), &a)
	}
	a.Add(Cost{Freeze: 10 * time.Millisecond, CPU: 2 * time.Second, Wall: 3 * time.Second})
	dear := a.Next()
	if want := Daly(1010*time.Millisecond, a.MTBF); dear != want {
		t.Errorf("%v, not %v", dear, want)
	}
	for range 20 {
		a.Add(Cost{Freeze: 5 * time.Millisecond, CPU: 30 * time.Millisecond, Wall: 50 * time.Millisecond})
	}
	if cheap := a.Next(); cheap >= dear/3 {
		t.Errorf("snapshots became fifty times cheaper, the interval went from %v to %v", dear, cheap)
	}
	if s := a.String(); !strings.Contains(s, "Daly") || !strings.Contains(s, "24h0m0s") {
		t.Error(s)
	}
}

// TestAutoIsNeverAlways has snapshots that last longer than the best interval.
func TestAutoIsNeverAlways(t *testing.T) {
	a := Auto{MTBF: time.Minute, CPUs: 2}
	a.Add(Cost{Freeze: time.Millisecond, CPU: 0, Wall: 20 * time.Second})
	if a.Next() != 20*time.Second || !strings.Contains(a.String(), "lasts 20s") {
		t.Errorf("%v: %s", a.Next(), &a)
	}
}
