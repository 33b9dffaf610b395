package fdtable

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
)

// What a started timer has to read, and when: the periods of one that had run out count on from then.
func TestStartTimer(t *testing.T) {
	const hour = int64(time.Hour)
	for _, c := range []struct {
		name string
		rec  model.TimerFD
		want uint64        // unread expirations, at least
		left time.Duration // at most; 0: disarmed
	}{
		{"runs", model.TimerFD{Clock: unix.CLOCK_MONOTONIC, Left: hour}, 0, time.Hour},
		{"ran out once", model.TimerFD{Clock: unix.CLOCK_MONOTONIC, Ticks: 1}, 1, 0},
		{
			"runs with unread expirations",
			model.TimerFD{Clock: unix.CLOCK_BOOTTIME, Ticks: 3, Left: hour, Interval: hour},
			3, time.Hour,
		},
		{
			"runs out before they are set",
			model.TimerFD{Clock: unix.CLOCK_BOOTTIME, Ticks: 3, Left: 1, Interval: hour},
			4, time.Hour,
		},
		{
			"ran out, of an older image",
			model.TimerFD{Clock: unix.CLOCK_MONOTONIC, Ticks: 1, Interval: hour},
			1,
			time.Hour,
		},
		{"ran out long ago", model.TimerFD{
			Clock: unix.CLOCK_MONOTONIC, Ticks: 2, Interval: hour,
			Expired: 3*hour + hour/2,
		}, 5, time.Hour / 2},
		{
			"until a date to come",
			model.TimerFD{Clock: unix.CLOCK_REALTIME, Flags: unix.TFD_TIMER_ABSTIME, Left: hour},
			0, time.Hour,
		},
		{"until a date gone by", model.TimerFD{
			Clock: unix.CLOCK_REALTIME, Flags: unix.TFD_TIMER_ABSTIME, Ticks: 7,
			Left: 1, Interval: hour,
		}, 8, time.Hour},
		{"ran out at a date", model.TimerFD{
			Clock: unix.CLOCK_REALTIME, Flags: unix.TFD_TIMER_ABSTIME, Ticks: 7,
			Interval: hour, Expired: 2*hour + hour/2,
		}, 9, time.Hour / 2},
		{
			"until a point of time to come",
			model.TimerFD{Clock: unix.CLOCK_MONOTONIC, Flags: unix.TFD_TIMER_ABSTIME, Left: hour},
			0, time.Hour,
		},
		{"ran out at a point of time", model.TimerFD{
			Clock: unix.CLOCK_BOOTTIME, Flags: unix.TFD_TIMER_ABSTIME,
			Ticks: 1,
		}, 1, 0},
		{
			"cancelled by a change of the clock",
			model.TimerFD{Clock: unix.CLOCK_REALTIME, Flags: unix.TFD_TIMER_ABSTIME | unix.TFD_TIMER_CANCEL_ON_SET},
			0, 0,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			fd, err := unix.TimerfdCreate(c.rec.Clock, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
			must(t, err)
			defer unix.Close(fd)
			now, err := readClock(c.rec.Clock)
			must(t, err)
			must(t, startTimer(fd, &c.rec, now))
			var buf [8]byte
			n, err := unix.Read(fd, buf[:])
			if got := binary.NativeEndian.Uint64(buf[:]); got != c.want || c.want == 0 && n > 0 {
				t.Errorf("%d unread expirations, want %d (%v)", got, c.want, err)
			}
			var spec unix.ItimerSpec
			must(t, unix.TimerfdGettime(fd, &spec))
			if left := time.Duration(spec.Value.Nano()); left > c.left || left < c.left-time.Minute ||
				spec.Interval.Nano() != c.rec.Interval {
				t.Errorf("%v left, interval %v", left, spec.Interval)
			}
			if st := saved(t, fd); st.Files[0].Of.(*model.TimerFD).Flags != c.rec.Flags {
				t.Errorf("its flags are %#x, want %#x", st.Files[0].Of.(*model.TimerFD).Flags, c.rec.Flags)
			}
		})
	}
}
