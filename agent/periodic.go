package agent

import (
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/interval"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

// Periodic takes snapshots of a tree by itself, one after the other. It is used by one goroutine.
type Periodic struct {
	Options snapshot.Options
	Keep    int           // images without a name that stay, 0 for all
	Every   time.Duration // from one snapshot to the next; 0: as often as Auto says
	Auto    interval.Auto

	said  time.Duration // the interval that was explained last
	noted []string      // notes that have been told
}

// Outcome is one periodic snapshot.
type Outcome struct {
	Result *snapshot.Result // nil if it failed
	Err    error            // why it failed, or with Result, why older images could not be removed
	Why    string           // explains a new interval, "" if it is as before
	Notes  []string         // those of Result that no snapshot before had
}

// Next is the time to the next snapshot.
func (p *Periodic) Next() time.Duration {
	if p.Every > 0 {
		return p.Every
	}
	return p.Auto.Next()
}

// Once takes one snapshot, removes what need not be kept, and learns what it cost.
func (p *Periodic) Once(ctx context.Context, s *Snapper) Outcome {
	before := cpuTime()
	res, err := s.Snap(ctx, p.Options)
	if err != nil {
		return Outcome{Err: err}
	}
	o := Outcome{Result: res}
	for _, n := range res.Notes {
		if !slices.Contains(p.noted, n) {
			p.noted, o.Notes = append(p.noted, n), append(o.Notes, n)
		}
	}
	p.Auto.Add(interval.Cost{Freeze: micros(res.FreezeUS), CPU: cpuTime() - before, Wall: micros(res.WallUS)})
	if p.Every == 0 && differs(p.said, p.Auto.Next()) {
		p.said, o.Why = p.Auto.Next(), p.Auto.String()
	}
	if p.Keep > 0 {
		_, o.Err = image.Prune(res.Dir, image.PruneOptions{Keep: p.Keep})
	}
	return o
}

// run takes snapshots until ctx ends or the tree is gone, beginning with one at once, and tells of each.
func (p *Periodic) run(ctx context.Context, s *Snapper, tell func(Outcome)) {
	for {
		o := p.Once(ctx, s)
		if ctx.Err() != nil {
			return
		}
		tell(o)
		if Gone(o.Err, s.root) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(p.Next()):
		}
	}
}

// differs reports whether an interval has changed by more than a quarter.
func differs(was, is time.Duration) bool { return is > was*5/4 || is < was*4/5 }

// cpuTime is the processor time this process has used (getrusage(2)).
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0 // then the freeze alone counts as the cost
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func micros(us int64) time.Duration { return time.Duration(us) * time.Microsecond }

// Saves is what a watch tells about its periodic snapshots. Times are microseconds.
type Saves struct {
	Dir     string `json:"dir"`
	Taken   uint64 `json:"taken"`
	Failed  uint64 `json:"failed"`
	Last    string `json:"last_id"`     // id of the newest image, "" before the first
	LastUS  int64  `json:"last_at_us"`  // when it was taken, since the watch began
	Freeze  int64  `json:"freeze_us"`   // of the newest one
	NextUS  int64  `json:"every_us"`    // the interval now
	RealUS  int64  `json:"achieved_us"` // from one image to the next, of the last few; 0 before the second
	Why     string `json:"why"`         // what the interval was chosen for, "" if the user chose it
	Failure string `json:"failure"`     // of the newest one, "" if it was taken

	at []time.Duration // of the last few images, since the watch began
}

// savesKept is how many of the last images the interval achieved is of.
const savesKept = 9

func (s *Saves) add(o Outcome, at time.Duration) {
	if o.Why != "" {
		s.Why = o.Why
	}
	s.Failure = ""
	if o.Err != nil {
		var lines []string
		for _, e := range fault.Of(o.Err) {
			lines = append(lines, e.Error())
		}
		s.Failure = strings.Join(lines, "; ")
	}
	if o.Result == nil {
		s.Failed++
		return
	}
	s.Taken++
	s.Last, s.LastUS, s.Freeze = o.Result.ID, at.Microseconds(), o.Result.FreezeUS
	s.at = append(s.at[max(0, len(s.at)+1-savesKept):], at)
	if n := len(s.at); n > 1 {
		s.RealUS = ((s.at[n-1] - s.at[0]) / time.Duration(n-1)).Microseconds()
	}
}
