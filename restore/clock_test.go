package restore

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/timens"
	"github.com/bpfckpt/bpfckpt/model"
)

// A tree whose clocks are ahead of ours read, at the freeze, as much less on ours.
func TestMomentOfShiftedClocks(t *testing.T) {
	c := &clocks{
		kernel: &model.Kernel{Monotonic: 1000, MonotonicOffset: 30, Boottime: 2000, BoottimeOffset: 40, Realtime: 7},
		shift:  timens.Offsets{Monotonic: 100, Boottime: 200},
	}
	for clock, want := range map[int]int64{
		unix.CLOCK_MONOTONIC: 930, unix.CLOCK_BOOTTIME: 1840, unix.CLOCK_BOOTTIME_ALARM: 1840, unix.CLOCK_REALTIME: 7,
	} {
		if have := c.moment(clock); have != want {
			t.Errorf("clock %d showed %d, want %d", clock, have, want)
		}
	}
	for clock, want := range map[int32]int64{
		unix.CLOCK_MONOTONIC: 100, unix.CLOCK_MONOTONIC_RAW: 100, unix.CLOCK_BOOTTIME: 200, unix.CLOCK_REALTIME: 0,
		unix.CLOCK_TAI: 0,
	} {
		if have := c.shiftOf(clock); have != want {
			t.Errorf("clock %d is %d ahead, want %d", clock, have, want)
		}
	}
}

// On the boot of the image its clocks have gone on; after another they are moved to where they were.
func TestOffsetsAfterAReboot(t *testing.T) {
	boot, err := ownView(t).Boot()
	if err != nil {
		t.Fatal(err)
	}
	k := &model.Kernel{BootID: boot, Monotonic: 5, MonotonicOffset: 2, Boottime: 6, BoottimeOffset: 3}
	c := &clocks{view: ownView(t), kernel: k}
	if have, err := c.offsets(); err != nil || have != (timens.Offsets{Monotonic: 2, Boottime: 3}) {
		t.Errorf("the same boot: %+v, %v", have, err)
	}
	k.BootID = "another"
	before, err := ownView(t).Time.Clocks()
	if err != nil {
		t.Fatal(err)
	}
	have, err := c.offsets()
	if err != nil || have.Monotonic > 7-before.Monotonic || have.Boottime > 9-before.Boottime ||
		have.Monotonic < 7-before.Monotonic-1e10 {
		t.Errorf("another boot: %+v at %+v, %v", have, before, err)
	}
}

// Nothing is asked of the stub where the clocks need no shift.
func TestClocksOfThisBootNeedNothing(t *testing.T) {
	boot, err := ownView(t).Boot()
	if err != nil {
		t.Fatal(err)
	}
	own := ownView(t).Time
	c := &clocks{view: ownView(t), kernel: &model.Kernel{
		BootID: boot, MonotonicOffset: own.Monotonic, BoottimeOffset: own.Boottime,
	}}
	if err := c.set(nil); err != nil || c.shift != (timens.Offsets{}) {
		t.Errorf("shift %+v, %v", c.shift, err)
	}
}
