package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/image"
)

// storeKills is how many commands are killed at a random moment: $BPFCKPT_KILLS, or a few.
func storeKills(t *testing.T) int {
	t.Helper()
	if n, err := strconv.Atoi(os.Getenv("BPFCKPT_KILLS")); err == nil && n > 0 {
		return n
	}
	return 40
}

// Commands that work on a store are killed with -9 at random moments, and so is the watch that takes the snapshots for
// them. Whatever the moment, every image there is verifies, what a command said it had published stays until something
// else removes it, the program runs on, and in the end the head brings it back.
func TestStoreSurvivesKills(t *testing.T) {
	p := caseNamed(t, "threads")
	p.name, p.argv = "threads-long", append(p.argv[:p.args:p.args], "1000000") // it is killed in the end
	tg := start(t, p)
	t.Cleanup(tg.endWatch)
	tg.snap("--incremental")
	done := map[string]int{}
	for range storeKills(t) {
		if tg.ended() {
			t.Fatalf("the program ended: %s%s", tg.read("out"), tg.read("err"))
		}
		kind := rand.IntN(6)
		var cmd *exec.Cmd
		switch kind {
		case 0:
			cmd = tg.command("squash", "image", "--chain")
		case 1:
			cmd = tg.command("prune", "image", "--keep", "2")
		default:
			cmd = tg.command("snap", strconv.Itoa(tg.pid), "--dir", "image", "--incremental", "--json", "--compress",
				"fast")
		}
		before := imageIDs(t, tg.path("image"))
		out, killed := runKilled(t, cmd, time.Duration(rand.Int64N(int64(120*time.Millisecond))), func() {
			if kind == 5 {
				killWatch(t, tg)
			}
		})
		after := verifyAll(t, tg.path("image"))
		var s snapped
		if kind > 1 && json.Unmarshal(out, &s) == nil && s.ID != "" && !after[s.ID] {
			t.Errorf("image %s was published and is gone", s.ID)
		}
		for id := range before {
			if kind > 1 && !after[id] {
				t.Errorf("image %s is gone after %v", id, cmd.Args)
			}
		}
		done[cmd.Args[1]]++
		if killed {
			done[cmd.Args[1]+", killed"]++
		}
	}
	t.Logf("%v", done)
	tg.endWatch()
	tg.kill()
	tg.awaitNoWatch()
	tg.restore()
	if !tg.running() {
		t.Errorf("the head does not restore: %s", tg.read("restore.err"))
	}
	tg.kill()
}

func (tg *target) command(args ...string) *exec.Cmd {
	cmd := exec.Command(built.cmd, args...)
	cmd.Dir = tg.dir
	return cmd
}

// runKilled runs a command and kills it after delay, unless it has ended; with it goes what also does.
func runKilled(t *testing.T, cmd *exec.Cmd, delay time.Duration, also func()) (out []byte, killed bool) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var text bytes.Buffer
	cmd.Stdout = &text
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	through := make(chan struct{})
	timer := time.AfterFunc(delay, func() {
		defer close(through)
		also()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	})
	err := cmd.Wait()
	if !timer.Stop() {
		<-through // what it has begun to kill must not be what comes after this
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return text.Bytes(), exit != nil && exit.Sys().(syscall.WaitStatus).Signaled()
}

// killWatch kills the watch of the target, if there is one.
func killWatch(t *testing.T, tg *target) {
	t.Helper()
	out, err := tg.command("watch", "--list", "--json").Output()
	if err != nil {
		t.Error(err)
		return
	}
	var list struct {
		Watches []struct{ Pid, Watcher int }
	}
	if err := json.Unmarshal(out, &list); err != nil {
		t.Error(err)
	}
	for _, w := range list.Watches {
		if w.Pid == tg.pid {
			_ = syscall.Kill(w.Watcher, syscall.SIGKILL)
			reap(t, w.Watcher)
		}
	}
}

func imageIDs(t *testing.T, dir string) map[string]bool {
	t.Helper()
	list, err := image.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, i := range list {
		ids[i.ID] = true
	}
	return ids
}

// verifyAll reads every image of a store in full, and the head.
func verifyAll(t *testing.T, dir string) map[string]bool {
	t.Helper()
	ids := imageIDs(t, dir)
	for ref := range ids {
		verifyOne(t, dir+"@"+ref)
	}
	verifyOne(t, dir)
	return ids
}

func verifyOne(t *testing.T, ref string) {
	t.Helper()
	r, err := image.Open(ref)
	if err != nil {
		t.Errorf("%s: %v", ref, err)
		return
	}
	defer r.Close()
	if err := r.Verify(t.Context(), nil); err != nil {
		t.Errorf("%s: %v", ref, err)
	}
}

// A restore right after a kill -9 waits for the end of what was killed: of much memory that takes the kernel a while.
func TestRestoreRightAfterKill(t *testing.T) {
	p := lazyProgram("random", 400)
	want := control(t, p)
	tg := start(t, p)
	tg.snap("--compress", "none")
	tg.goOn()
	if err := syscall.Kill(tg.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	out := tg.read("out")
	tg.startRestore()
	same(t, "right after the kill", tg.finish(), want)
	if !strings.HasPrefix(tg.read("out"), out) {
		t.Errorf("the output before was %q", out)
	}
}
