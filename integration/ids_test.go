package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// A restore into a taken pid names the occupant and changes nothing; in a pid namespace of its own it works all the
// same.
func TestTakenPid(t *testing.T) {
	p := caseNamed(t, "signals/pending-process")
	want := control(t, p)
	tg := start(t, p)
	tg.snap()
	occupant := tg.pid
	before := viewOf(occupant)
	_, errs, status := tg.ckpt("restore", "image")
	if status != 6 {
		t.Errorf("status %d, want 6", status)
	}
	for _, part := range []string{"E_PID_TAKEN", strconv.Itoa(occupant), "signals", "--pidns auto"} {
		if !strings.Contains(errs, part) {
			t.Errorf("the message does not name %q: %s", part, errs)
		}
	}
	if n := strings.Count(strings.TrimSpace(errs), "\n"); n != 0 {
		t.Errorf("the message has %d lines: %s", n+1, errs)
	}
	compareViews(t, "the occupant", viewOf(occupant), before, nil)
	if err := syscall.Kill(occupant, syscall.SIGSTOP); err != nil { // so that it does not write into the same file
		t.Fatal(err)
	}
	tg.goOn()
	out, errs, status := tg.ckpt("restore", "image", "--pidns", "auto")
	if status != 0 {
		t.Errorf("restore --pidns auto: status %d: %s%s", status, out, errs)
	}
	same(t, "in a pid namespace", result{status: status, out: tg.read("out"), files: map[string]string{}}, want)
	if stateOf(occupant) != 'T' {
		t.Error("the occupant is gone")
	}
}

// --pidns always makes a namespace even when the pid is free; --pidns never refuses as before.
func TestPidNamespaceModes(t *testing.T) {
	for _, name := range []string{"trees/groups", "trees/leaderless", "trees/stopped"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := caseNamed(t, name)
			want := control(t, p)
			tg := start(t, p)
			tg.snap()
			tg.kill()
			tg.goOn()
			_, errs, status := tg.ckpt("restore", "image", "--pidns", "always")
			same(t, "--pidns always: "+errs, result{status: status, out: tg.read("out"), files: map[string]string{}},
				want)
		})
	}
}

// A daemon whose session has no leader any more is in that session again, and a restore that cannot have its id says
// so.
func TestDaemon(t *testing.T) {
	p := caseNamed(t, "trees/groups")
	want := control(t, p)
	tg := prepare(t, p)
	tg.run(exec.Command("setsid", "sh", "-c", `"$0" groups >out 2>err </dev/null & echo $! >pid`, filepath.Join(built.dir, "trees")), "sh.out", "sh.err")
	tg.join()
	if _, err := fmt.Sscan(tg.read("pid"), &tg.pid); err != nil {
		t.Fatal(err)
	}
	tg.waitReady()
	tg.poll("READY", func() bool { return strings.Contains(tg.read("out"), "READY") && tg.asleep() })
	tg.awaitExe()
	before := viewOf(tg.pid)
	session := before[fmt.Sprintf("%d %d session", tg.pid, tg.pid)]
	tg.snap()
	tg.kill()
	id, err := strconv.Atoi(session)
	if err != nil || syscall.Kill(-id, 0) == nil {
		t.Fatalf("session %q: %v", session, err)
	}
	tg.restore()
	compareViews(t, "daemon", viewOf(tg.pid), before, nil)
	tg.goOn()
	same(t, "daemon", tg.finish(), want)
}

// --detach returns at once and leaves the process to itself; --pidfile tells its pid.
func TestDetach(t *testing.T) {
	p := caseNamed(t, "counter")
	want := control(t, p)
	tg := start(t, p)
	tg.snap()
	tg.kill()
	out, errs, status := tg.ckpt("restore", "image", "--detach", "--json", "--pidfile", "pid")
	if status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	if have := strings.TrimSpace(tg.read("pid")); have != strconv.Itoa(tg.pid) {
		t.Errorf("pid file: have %q, want %d", have, tg.pid)
	}
	for _, key := range []string{`"pids"`, `"restore_us"`, `"` + strconv.Itoa(tg.pid) + `"`} {
		if !strings.Contains(out, key) {
			t.Errorf("restore --json lacks %s: %s", key, out)
		}
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(tg.pid, &ws, 0, nil); err != nil { // we are the subreaper
		t.Fatal(err)
	}
	r := result{
		status: ws.ExitStatus(), out: tg.read("out"),
		files: map[string]string{"count.txt": tg.read("count.txt")},
	}
	same(t, "--detach", r, want)
}

// --stopped leaves the process in a job-control stop, as it was; SIGCONT lets it go on.
func TestStopped(t *testing.T) {
	p := caseNamed(t, "sleeps/read")
	want := control(t, p)
	tg := start(t, p)
	before := viewOf(tg.pid)
	tg.snap()
	tg.kill()
	tg.startRestore("image", "--stopped")
	tg.poll("the stop", func() bool { return tg.ended() || stateOf(tg.pid) == 'T' && tg.running() })
	compareViews(t, "stopped", viewOf(tg.pid), before, nil)
	if err := syscall.Kill(tg.pid, syscall.SIGCONT); err != nil {
		t.Error(err)
	}
	tg.goOn()
	same(t, "--stopped", tg.finish(), want)
}

// A process that was in a job-control stop is in one again.
func TestJobStopped(t *testing.T) {
	p := caseNamed(t, "threads")
	want := control(t, p)
	tg := start(t, p)
	if err := syscall.Kill(tg.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	tg.poll("the stop", func() bool { return stateOf(tg.pid) == 'T' })
	tg.snap()
	if s := stateOf(tg.pid); s != 'T' {
		t.Errorf("after the snapshot the state is %c", s)
	}
	tg.kill()
	tg.startRestore()
	tg.poll("the stop", func() bool { return tg.ended() || stateOf(tg.pid) == 'T' && tg.running() })
	if tg.ended() {
		t.Fatalf("restore: %s", tg.read("restore.err"))
	}
	if err := syscall.Kill(tg.pid, syscall.SIGCONT); err != nil {
		t.Error(err)
	}
	same(t, "job-stopped", tg.finish(), want)
}

// The foreground restore passes on signals and the process's own status.
func TestForeground(t *testing.T) {
	p := program{name: "sleep", argv: []string{"/bin/sleep", "100"}, wait: computes}
	for _, c := range []struct {
		signal syscall.Signal
		status int
	}{{syscall.SIGTERM, 128 + 15}, {syscall.SIGINT, 128 + 2}, {syscall.SIGUSR1, 128 + 10}} {
		t.Run(c.signal.String(), func(t *testing.T) {
			t.Parallel()
			tg := prepare(t, p)
			tg.launch(nil)
			tg.poll("sleeping", tg.asleep)
			tg.snap()
			tg.kill()
			tg.restore()
			if err := tg.cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			if status := tg.join(); status != c.status {
				t.Errorf("status %d, want %d: %s", status, c.status, tg.read("restore.err"))
			}
		})
	}
}

// A daemon's session and a shell job's process group are kept.
func TestSessions(t *testing.T) {
	for name, attr := range map[string]*syscall.SysProcAttr{"session": {Setsid: true}, "group": {Setpgid: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := caseNamed(t, "trees/groups")
			want := control(t, p)
			tg := prepare(t, p)
			tg.launch(attr)
			tg.waitReady()
			before := viewOf(tg.pid)
			tg.snap()
			tg.interrupt()
			compareViews(t, name, viewOf(tg.pid), before, nil)
			tg.goOn()
			same(t, name, tg.finish(), want)
		})
	}
}

// The image can be moved: the directory's name is not in it.
func TestMovedImage(t *testing.T) {
	p := caseNamed(t, "vmas/anon")
	want := control(t, p)
	tg := start(t, p)
	tg.snap()
	tg.kill()
	if err := os.Rename(tg.path("image"), tg.path("elsewhere")); err != nil {
		t.Fatal(err)
	}
	tg.restore(filepath.Join(tg.dir, "elsewhere"))
	tg.goOn()
	same(t, "moved", tg.finish(), want)
}

// A restore below nohup ignores signals that a dead child of the image died of.
func TestZombiesBelowNohup(t *testing.T) {
	p := caseNamed(t, "trees/killed")
	want := control(t, p)
	tg := start(t, p)
	tg.snap()
	tg.kill()
	tg.run(exec.Command("env", "--ignore-signal=HUP,INT,TERM,SEGV", built.cmd, "restore", "image"), "restore.out",
		"restore.err")
	tg.waitRestored()
	tg.goOn()
	same(t, "below nohup", tg.finish(), want)
}

// A restore that fails in a pid namespace of its own ends, and leaves nothing.
func TestPidNSFails(t *testing.T) {
	tg := start(t, caseNamed(t, "proc/removed-directory"))
	tg.snap("--kill")
	tg.join()
	_, errs, status := tg.ckpt("restore", "image", "--pidns", "always")
	if status == 0 || !strings.HasPrefix(errs, "bpfckpt: E_PIDNS") || !strings.Contains(errs, "free") {
		t.Errorf("status %d: %s", status, errs)
	}
	tg.goOn()
	tg.restore("image")
	if status := tg.join(); status != 0 || !strings.HasSuffix(tg.read("out"), "OK\n") {
		t.Errorf("status %d: %s", status, tg.read("out"))
	}
}
