package tracer

import (
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/view"
)

// clocks is one reading of the clocks, ns. Every time left in one collection is counted from it.
type clocks map[int32]int64

// Times of kernel objects are those of the initial time namespace, and so are these, whichever we are in.
func readClocks(v *view.View) clocks {
	c := clocks{}
	for _, id := range []int32{unix.CLOCK_MONOTONIC, unix.CLOCK_REALTIME, unix.CLOCK_BOOTTIME, unix.CLOCK_TAI} {
		var ts unix.Timespec
		if unix.ClockGettime(id, &ts) == nil {
			c[id] = ts.Nano()
		}
	}
	c[unix.CLOCK_MONOTONIC] -= v.Time.Monotonic
	c[unix.CLOCK_BOOTTIME] -= v.Time.Boottime
	// The alarm clocks differ from these only in that they wake a suspended machine.
	c[unix.CLOCK_REALTIME_ALARM] = c[unix.CLOCK_REALTIME]
	c[unix.CLOCK_BOOTTIME_ALARM] = c[unix.CLOCK_BOOTTIME]
	return c
}

// left is the time from now to the expiry of an armed timer: at least 1 ns, for 0 would mean disarmed. A periodic timer
// that has expired and waits for its signal to be taken counts to its next period, as timer_gettime(2) says it.
func left(expires, now, interval int64) int64 {
	if expires <= now && interval > 0 {
		expires += ((now-expires)/interval + 1) * interval
	}
	return max(expires-now, 1)
}
