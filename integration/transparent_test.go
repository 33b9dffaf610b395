package integration

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
)

// sitting are programs that do nothing at all while they wait, so that every register can be compared.
var sitting = []string{
	"sleeps/read", "sleeps/futex-forever", "sleeps/poll-forever", "sleeps/semaphore", "sleeps/waitpid", "sleeps/write",
	"signals/altstack-inside", "signals/pending-thread", "vmas/memfd", "vmas/guard", "vmas/locked", "fds/pipes",
	"proc/robust",
	"trees/groups",
}

// registers are what ptrace says of every thread of a tree.
func registers(t *testing.T, pid int) map[string]string {
	t.Helper()
	// Another process does it: the tests' own waits for their children would take the stops of a thread they trace.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), registersOf+"="+strconv.Itoa(pid))
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	all := map[string]string{}
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// registersOf is the variable that makes the test program print the registers of a process and end.
const registersOf = "INTEGRATION_REGISTERS_OF"

// printRegisters is what the other process does.
func printRegisters(pid string) error {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return err
	}
	tracer := ptrace.New()
	defer tracer.Close()
	group, err := tracer.Freeze(context.Background(), descendants(n), limit)
	if err != nil {
		return err
	}
	all := map[string]string{}
	for _, th := range group.Threads() {
		err = errors.Join(err, describe(th, all))
	}
	if err := errors.Join(err, group.Thaw()); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// naps are the calls of threads that poll, which are somewhere else each time, and the one by which the kernel goes on
// with a call that has a timeout.
var naps = []uint64{unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_RESTART_SYSCALL}

func describe(th *ptrace.Thread, all map[string]string) error {
	key := fmt.Sprintf("registers of %d/%d ", th.Pid, th.Tid)
	regs, err1 := th.Regs()
	xstate, err2 := th.XState(nil)
	mask, err3 := th.SigMask()
	own, err4 := th.Pending(false)
	shared, err5 := th.Pending(true)
	if nr, _, inCall := regs.Syscall(); inCall && !slices.Contains(naps, nr) {
		all[key+"general"] = fmt.Sprintf("%x", regs.Bytes())
		all[key+"xstate"] = fmt.Sprintf("%x", sha256.Sum256(xstate))
	}
	all[key+"mask"] = strconv.FormatUint(mask, 16)
	all[key+"pending"] = fmt.Sprintf("%x / %x", own, shared)
	return errors.Join(err1, err2, err3, err4, err5)
}

// A snapshot leaves the target exactly as it was, and so does one that fails.
func TestSnapLeavesNoTrace(t *testing.T) {
	for _, name := range sitting {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := caseNamed(t, name)
			want := control(t, p)
			tg := start(t, p)
			before, regs := viewOf(tg.pid), registers(t, tg.pid)
			for i, flags := range [][]string{
				{"--dir", "image"},
				{"--dir", "image", "--compress", "none"},
				{"--dir", "/proc/nowhere"},
				{"--dir", "/dev/full/x"},
			} {
				_, errs, status := tg.ckpt(append([]string{"snap", strconv.Itoa(tg.pid)}, flags...)...)
				if ok := i < 2; ok != (status == 0) {
					t.Errorf("snap %v: status %d: %s", flags, status, errs)
				}
				compareViews(t, fmt.Sprint("after snap ", flags), viewOf(tg.pid), before, nil)
				sameRegisters(t, registers(t, tg.pid), regs)
			}
			tg.goOn()
			same(t, name, tg.finish(), want)
		})
	}
}

func sameRegisters(t *testing.T, have, want map[string]string) {
	t.Helper()
	for key := range want {
		if _, ok := have[key]; ok && have[key] != want[key] {
			t.Errorf("%s changed\nfrom %s\nto   %s", key, want[key], have[key])
		}
	}
}

// kills is how many snapshots are killed at a random moment.
const kills = 200

// bpfckpt is killed with -9 at random moments of a snapshot: every target runs on correctly, and no half image is left
// that anyone could take for a whole one.
func TestKilledAtAnyMoment(t *testing.T) {
	p := brief
	want := control(t, p)
	whole := durationOfSnap(t)
	n := kills
	if testing.Short() {
		n = 20
	}
	const workers = 4
	var unpublished atomic.Int64
	t.Run("workers", func(t *testing.T) {
		for worker := range workers {
			t.Run(strconv.Itoa(worker), func(t *testing.T) {
				t.Parallel()
				for range n / workers {
					delay := time.Duration(rand.Int64N(int64(whole)*5/4 + 1))
					tg := start(t, p)
					killSnap(tg, delay)
					same(t, fmt.Sprintf("killed after %v", delay), tg.finish(), want)
					if !imageIsWhole(t, tg.path("image")) {
						unpublished.Add(1)
					}
				}
			})
		}
	})
	t.Logf("a snapshot takes %v; %d of %d were killed before their image was published", whole, unpublished.Load(), n)
}

// brief is a program of 16 threads that ends soon.
var brief = program{name: "threads-brief", argv: []string{"threads", "200"}, wait: computes}

// durationOfSnap measures one snapshot of the same program, as a whole command.
func durationOfSnap(t *testing.T) time.Duration {
	t.Helper()
	tg := start(t, caseNamed(t, "threads"))
	begin := time.Now()
	tg.snap()
	took := time.Since(begin)
	tg.kill()
	return took
}

// killSnap starts a snapshot and kills it after delay.
func killSnap(tg *target, delay time.Duration) {
	tg.t.Helper()
	cmd := exec.Command(built.cmd, "snap", strconv.Itoa(tg.pid), "--dir", "image")
	cmd.Dir = tg.dir
	if err := cmd.Start(); err != nil {
		tg.t.Fatal(err)
	}
	time.Sleep(delay)
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
}

// imageIsWhole reports whether there is an image; one that is there and not whole is an error.
func imageIsWhole(t *testing.T, dir string) bool {
	t.Helper()
	r, err := image.Open(dir)
	if err != nil {
		if _, stat := os.Stat(dir); stat != nil {
			return false
		}
		images, err := image.List(dir)
		if !errors.Is(err, &image.Error{Code: "E_STORE_NOT_FOUND"}) && err != nil || len(images) > 0 {
			t.Errorf("a killed snapshot left %v: %v", images, err)
		}
		return false
	}
	defer r.Close()
	if err := r.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	return true
}

// A store in which a snapshot was killed takes the next one, and what the dead one left goes away.
func TestStoreAfterKill(t *testing.T) {
	p := caseNamed(t, "vmas/big")
	tg := start(t, p)
	for i := range 15 {
		killSnap(tg, time.Duration(20*i)*time.Millisecond)
	}
	tg.snap()
	one := filesBelow(t, tg.path("image"))
	fresh := start(t, p)
	fresh.snap()
	two := filesBelow(t, fresh.path("image"))
	images, err := image.List(tg.path("image")) // one that was killed late has published its image
	if err != nil {
		t.Error(err)
	}
	if most := two*int64(len(images)) + two/2; one > most {
		t.Errorf("the store holds %d bytes in %d images after killed snapshots, one image takes %d", one, len(images),
			two)
	}
	for _, tg := range []*target{tg, fresh} {
		tg.goOn()
		if r := tg.finish(); r.status != 0 {
			t.Errorf("%s", r)
		}
	}
}

// filesBelow is the total size of the files below dir.
func filesBelow(t *testing.T, dir string) int64 {
	t.Helper()
	sizes := map[string]int64{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			sizes[e.Name()] = filesBelow(t, dir+"/"+e.Name())
		} else if info, err := e.Info(); err == nil {
			sizes[e.Name()] = info.Size()
		}
	}
	var sum int64
	for size := range maps.Values(sizes) {
		sum += size
	}
	return sum
}
