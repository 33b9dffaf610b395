package snapshot

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// TestThrottle holds a program back, harder and harder, and lets it go again.
func TestThrottle(t *testing.T) {
	d := drive(t)
	d.do("map 0 1000 0 anon")
	d.do("write 0 0 1000")
	d.do("churn 0")
	t.Cleanup(func() { _ = d.cmd.Process.Kill() })
	b := &throttle{ctx: t.Context(), pids: []int{d.pid()}, slice: 20 * time.Millisecond}
	for i := range throttleShares {
		if !b.harder() {
			t.Fatalf("it cannot throttle harder than %d times", i)
		}
		// A slice that comes too late does not count, and on a busy machine most do.
		for before, end := b.slices(), time.Now().Add(patience); b.slices() == before &&
			time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		}
	}
	if b.harder() {
		t.Error("it can throttle harder than hardest")
	}
	b.release()
	b.release()
	if b.used.Slices < len(throttleShares) || b.used.Total == 0 || b.used.Longest > b.used.Total {
		t.Errorf("%+v", b.used)
	}
	status, err := procfs.Pid(d.pid()).Status()
	if err != nil || status.TracerPid != 0 {
		t.Errorf("traced by %d, %v", status.TracerPid, err)
	}
	awaitState(t, d.pid(), "RS")
}

func (b *throttle) slices() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used.Slices
}

// TestHeldBack saves a program that rewrites its memory as fast as it can, under a bound. Where the machine is too slow
// for it, that is said, and the program runs on.
func TestHeldBack(t *testing.T) {
	d := drive(t)
	d.do("map 0 30000 0 anon")
	d.do("write 0 0 30000")
	d.do("churn 0")
	t.Cleanup(func() { _ = d.cmd.Process.Kill() })
	o := Options{
		Precopy: true, MaxFreeze: 100 * time.Millisecond, Stop: true, Compress: image.LevelFast,
		Dir: t.TempDir() + "/store",
	}
	res, err := Snap(t.Context(), d.pid(), o)
	if errors.Is(err, &fault.Error{Code: fault.MaxFreeze}) {
		t.Logf("%v", err)
		awaitState(t, d.pid(), "RS")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("frozen for %d us, held back: %+v", res.FreezeUS, res.Throttle)
	r, err := image.Open(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, want := snap(t, d.pid(), Options{Compress: image.LevelFast})
	requireSamePages(t, r, want)
	kill(t, d.pid(), unix.SIGCONT)
	awaitState(t, d.pid(), "RS")
}
