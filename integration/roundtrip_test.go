package integration

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Every program passes its own checks when nobody touches it.
func TestControl(t *testing.T) {
	for _, p := range append(cases(t), long(t)...) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			r := control(t, p)
			if lacking(p, r) {
				return
			}
			if r.status != 0 || strings.Contains(r.out, "differs") {
				t.Errorf("%s", r)
			}
		})
	}
}

// Snap, kill -9, restore: the program must not notice, and the kernel must say the same of it.
func TestRoundTrip(t *testing.T) {
	for _, p := range cases(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			roundTrip(t, p)
		})
	}
}

func roundTrip(t *testing.T, p program) {
	want := control(t, p)
	tg := start(t, p)
	before := viewOf(tg.pid)
	tg.snap()
	if after := viewOf(tg.pid); tg.p.wait == waitsForGo {
		compareViews(t, "after the snapshot", after, before, nil)
	}
	tg.interrupt()
	if p.wait == waitsForGo && !tg.ended() {
		compareViews(t, "after the restore", viewOf(tg.pid), before, p.loses)
	}
	tg.goOn()
	same(t, p.name, tg.finish(), want)
}

// A file that a program maps shared and writable is its own to change: that it did so after the snapshot does not keep
// it from being restored.
func TestSharedFileChangesOn(t *testing.T) {
	p := caseNamed(t, "vmas/shared-file")
	want := control(t, p)
	tg := start(t, p)
	tg.snap()
	tg.kill()
	now := time.Now()
	if err := os.Chtimes(tg.path("file"), now, now); err != nil {
		t.Fatal(err)
	}
	_, errs, status := tg.ckpt("restore", "image", "--files", "verify")
	if status != 6 || !strings.Contains(errs, "E_FILE_CHANGED: "+tg.path("file")) {
		t.Errorf("--files verify: status %d: %s", status, errs)
	}
	tg.restore()
	told := tg.path("file") + " was changed after the snapshot"
	tg.poll("telling the user", func() bool { return strings.Contains(tg.read("restore.err"), told) })
	tg.goOn()
	same(t, p.name, tg.finish(), want)
}

// repeats is how often the long programs are taken through a round trip.
func repeats(t *testing.T) int {
	if n, err := strconv.Atoi(os.Getenv("BPFCKPT_REPEAT")); err == nil && n > 0 {
		return n
	}
	if testing.Short() {
		return 2
	}
	return 10
}

// The programs that compute are snapped at ten different moments, killed and restored, and end as if nothing had
// happened.
func TestLong(t *testing.T) {
	for _, p := range long(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			want := control(t, p)
			if lacking(p, want) {
				return
			}
			begin := time.Now()
			whole := start(t, p) // control may have run it long ago
			same(t, p.name+" once more", whole.finish(), want)
			took := time.Since(begin)
			n := repeats(t)
			for i := range n {
				midRun(t, p, want, took*time.Duration(i+1)/time.Duration(3*n))
				if t.Failed() {
					return
				}
			}
		})
	}
}

// midRun takes one program through a snapshot after delay, its death and its return.
func midRun(t *testing.T, p program, want result, delay time.Duration) {
	t.Helper()
	tg := snappedAfter(t, p, delay)
	defer tg.kill()
	tg.interrupt()
	same(t, p.name+" after "+delay.String(), tg.finish(), want)
}

// snappedAfter starts a program that computes and takes a snapshot after delay. On a busy machine the snapshot may
// begin so late that the program has ended: then half the delay must do.
func snappedAfter(t *testing.T, p program, delay time.Duration) *target {
	t.Helper()
	for {
		tg := start(t, p)
		time.Sleep(delay)
		_, errs, status := tg.trySnap()
		switch {
		case status == 0:
			return tg
		case !regexp.MustCompile("E_(NO_SUCH_PID|TARGET_GONE|ZOMBIE): ").MatchString(errs):
			t.Fatalf("%s: snap after %v: status %d: %s", p.name, delay, status, errs)
		case delay < time.Millisecond:
			t.Fatalf("%s ends before any snapshot: %s", p.name, errs)
		}
		tg.join()
		delay /= 2
	}
}

// longer are numbers of steps that keep a program busy through five snapshots.
var longer = map[string]string{
	"counter": "2000", "threads": "2000", "goroutines": "2000", "pipeline": "2000",
	"python": "9000",
}

// Waits for SysV semaphores, one after the other and beside nothing else: see special.
func TestSemaphores(t *testing.T) {
	for _, name := range []string{"semtimedop", "semop"} {
		t.Run(name, func(t *testing.T) {
			roundTrip(t, program{
				name: "sleeps/" + name, argv: []string{"sleeps", name}, wait: inACall,
				outage: 400 * time.Millisecond,
			})
		})
	}
}

// Calls with a timeout, that a stop ends, go on when the program runs on after a snapshot, and end on time: with
// snapshots more often than the timeout a call that were made anew each time would never end.
func TestTimeoutsBelowSnapshots(t *testing.T) {
	for _, flags := range [][]string{nil, {"--no-precopy"}, {"--incremental"}} {
		t.Run(strings.Join(append([]string{"snap"}, flags...), " "), func(t *testing.T) {
			t.Parallel()
			p := caseNamed(t, "sleeps/timeouts")
			want := control(t, p)
			tg := start(t, p)
			taken := 0
			for !tg.ended() {
				if _, errs, status := tg.trySnap(flags...); status == 0 {
					taken++
				} else if !tg.ended() &&
					!regexp.MustCompile("E_(NO_SUCH_PID|TARGET_GONE|ZOMBIE|TREE_MOVES): ").MatchString(errs) {
					t.Fatalf("snapshot %d: status %d: %s", taken, status, errs)
				}
			}
			if taken == 0 {
				t.Error("no snapshot was taken")
			}
			same(t, p.name, tg.finish(), want)
		})
	}
}

// Clocks of a time namespace are others than ours, in what a program names as a deadline and in what the kernel tells
// of it.
func TestTimeNamespace(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"iter", "proc"} {
		for _, name := range []string{
			"sleeps/clock-nanosleep", "sleeps/absolute", "sleeps/futex-bitset", "timers/posix-signal",
			"timers/itimer-blocked", "timers/clock", "events/timerfd",
		} {
			t.Run(source+"/"+name, func(t *testing.T) {
				t.Parallel()
				p := caseNamed(t, name)
				p.name += "-elsewhen"
				p.argv = append([]string{unshare, "--time", "--monotonic", "86400", "--boottime", "172800", "--"},
					p.command()...)
				want := control(t, p)
				tg := start(t, p)
				var err error
				tg.exe, err = os.Readlink(fmt.Sprintf("/proc/%d/exe", tg.pid)) // what unshare has become
				if err != nil {
					t.Fatal(err)
				}
				tg.snap("--source", source)
				tg.interrupt()
				tg.goOn()
				same(t, p.name, tg.finish(), want)
			})
		}
	}
}

// Five generations: each life is snapped, killed and followed by the next.
func TestGenerations(t *testing.T) {
	for _, name := range []string{
		"counter", "threads", "python", "goroutines", "pipeline", "signals/realtime-order",
		"vmas/memfd", "fds/pipes", "forked/generations", "forked/reshaped", "forked/workers",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := caseNamed(t, name)
			if steps, ok := longer[name]; ok {
				p.name, p.argv = name+"-longer", append(slices.Clone(p.argv[:p.args]), steps)
			}
			want := control(t, p)
			tg := start(t, p)
			for i := range 5 {
				time.Sleep(40 * time.Millisecond)
				if tg.ended() {
					t.Fatalf("generation %d ended too early: %s", i, tg.read("out"))
				}
				tg.snap("--name", "g"+strconv.Itoa(i))
				tg.kill()
				tg.restore("image@g" + strconv.Itoa(i))
			}
			tg.goOn()
			same(t, name, tg.finish(), want)
		})
	}
}

// A program that ends while the last of its threads are still being let go has come back: nobody says otherwise, and
// its status is its own.
func TestEndsWhileReleased(t *testing.T) {
	p := caseNamed(t, "trees/ends-at-once")
	want := control(t, p)
	tg := start(t, p)
	tg.snap()
	for range 5 {
		tg.kill()
		tg.emptyOut()
		if err := os.WriteFile(tg.path("go"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		tg.startRestore()
		same(t, p.name, tg.finish(), want)
		if errs := tg.read("restore.err"); strings.Contains(errs, "E_") {
			t.Errorf("restore says %q", errs)
		}
	}
}

// One image, restored three times over.
func TestSameImageThreeTimes(t *testing.T) {
	for _, name := range []string{"counter", "threads", "perl", "trees/pipe-and-memory", "vmas/deleted-file", "forked/reshaped"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := caseNamed(t, name)
			want := control(t, p)
			tg := snappedAfter(t, p, 60*time.Millisecond)
			for i := range 3 {
				tg.kill()
				os.Remove(tg.path("go"))
				tg.restore()
				tg.goOn()
				same(t, name+" "+strconv.Itoa(i), tg.finish(), want)
			}
		})
	}
}

// What --stop and --kill leave.
func TestStopAndKill(t *testing.T) {
	p := caseNamed(t, "counter")
	want := control(t, p)
	t.Run("kill", func(t *testing.T) {
		tg := start(t, p)
		tg.snap("--kill")
		if status := tg.join(); status != 128+9 {
			t.Errorf("status %d after snap --kill", status)
		}
		tg.restore()
		same(t, "after --kill", tg.finish(), want)
	})
	t.Run("stop", func(t *testing.T) {
		tg := start(t, p)
		tg.snap("--stop")
		tg.poll("the stop", func() bool { return stateOf(tg.pid) == 'T' })
		tg.kill()
		tg.restore()
		same(t, "after --stop", tg.finish(), want)
	})
}
