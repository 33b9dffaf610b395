package integration

import (
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/model"
)

// An image from another boot: the restored process sees its clocks go on from where they were at the snapshot, and so
// it does in a second generation, taken from the time namespace that the first restore had to make. A clock that is set
// back is noticed.
func TestAnotherBoot(t *testing.T) {
	for name, c := range map[string]struct {
		shift time.Duration
		same  bool
	}{"ahead": {100 * time.Second, true}, "back": {-100 * time.Second, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := caseNamed(t, "timers/clock")
			want := control(t, p)
			tg := start(t, p)
			tg.snap()
			tg.kill()
			tg.rewriteImage(func(st *model.State) {
				st.Kernel.BootID = "00000000-0000-0000-0000-000000000000"
				st.Kernel.Monotonic += int64(c.shift)
				st.Kernel.Boottime += int64(c.shift)
			})
			tg.restore()
			tg.snap()
			tg.kill()
			tg.restore()
			tg.goOn()
			have := tg.finish()
			if c.same {
				same(t, "after another boot", have, want)
			} else if have.out == want.out {
				t.Error("the program does not notice that its clocks were set back")
			}
		})
	}
}
