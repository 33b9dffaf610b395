// Package interval says how often a long job should be saved.
//
// A job that is saved every t loses, on average, half of t and the restart at each failure, and the cost of a snapshot
// every t. With a mean time between failures M and a cost C the sum is least near sqrt(2CM) (J. W. Young, A first order
// approximation to the optimum checkpoint interval, 1974); J. T. Daly (A higher order estimate of the optimum
// checkpoint interval for restart dumps, 2006) refines that.
package interval

import (
	"fmt"
	"math"
	"time"
)

// Daly returns the time to compute between two snapshots that cost the job cost each, for a mean time between failures
// of mtbf. It is mtbf if a snapshot costs twice that or more. Both must be positive.
func Daly(cost, mtbf time.Duration) time.Duration {
	c, m := cost.Seconds(), mtbf.Seconds()
	if c >= 2*m {
		return mtbf
	}
	x := c / (2 * m)
	t := math.Sqrt(2*c*m)*(1+math.Sqrt(x)/3+x/9) - c
	return time.Duration(t * float64(time.Second))
}

// Cost is what one snapshot took.
type Cost struct {
	Freeze time.Duration // how long the job stood still
	CPU    time.Duration // processor time that the snapshot used meanwhile, of one processor
	Wall   time.Duration // from its beginning to its end
}

// Auto adjusts the interval to what snapshots turn out to cost. The zero value with MTBF set is ready.
type Auto struct {
	MTBF time.Duration // mean time between failures
	CPUs int           // processors of the machine; at least 1

	cost, wall time.Duration // smoothed
}

// Bounds of the automatic interval.
const (
	first  = 10 * time.Second // before anything is known
	least  = time.Second
	weight = 0.3 // of the newest cost
)

// Add takes the cost of one more snapshot into account.
func (a *Auto) Add(c Cost) {
	cost := c.Freeze + c.CPU/time.Duration(max(a.CPUs, 1))
	if a.cost == 0 {
		a.cost, a.wall = cost, c.Wall
		return
	}
	a.cost = smooth(a.cost, cost)
	a.wall = smooth(a.wall, c.Wall)
}

func smooth(old, now time.Duration) time.Duration {
	return time.Duration((1-weight)*float64(old) + weight*float64(now))
}

// Next returns the time from the end of one snapshot to the beginning of the next. It is never shorter than a snapshot
// lasts: the job would be saved all the time.
func (a *Auto) Next() time.Duration {
	if a.cost == 0 {
		return min(first, a.MTBF)
	}
	return max(Daly(a.cost, a.MTBF), a.wall, least)
}

// String explains Next in one line.
func (a *Auto) String() string {
	if a.cost == 0 {
		return fmt.Sprintf("every %v until it is known what a snapshot costs", a.Next())
	}
	text := fmt.Sprintf("every %v: a snapshot costs the program about %v and a failure is expected every %v (Daly 2006)",
		round(a.Next()), round(a.cost), a.MTBF)
	if a.Next() > Daly(a.cost, a.MTBF) {
		text += fmt.Sprintf("; not more often, since one lasts %v", round(a.wall))
	}
	return text
}

// round leaves three digits.
func round(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
