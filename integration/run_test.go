package integration

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The classic demonstration, on a terminal: 1 2 3, Ctrl-C, the same command, 4 5 6. No number is missing, none comes
// twice.
func TestRunOnATerminal(t *testing.T) {
	tg := prepare(t, program{name: "run"})
	next := 1
	for round := range 3 {
		tty := openPty(t)
		cmd := exec.Command(built.cmd, "run", "--dir", "job", "--", counterExample(), "150")
		tg.launchOn(tty, cmd)
		tg.pid = cmd.Process.Pid
		tg.poll("counting", func() bool { return len(numbers(tty.text())) >= 3 || tg.ended() })
		if _, err := tty.master.WriteString("\x03"); err != nil { // Ctrl-C
			t.Fatal(err)
		}
		if status := tg.join(); status != 130 {
			t.Errorf("round %d: status %d: %s", round, status, tty.text())
		}
		for _, n := range numbers(tty.text()) {
			if n != next {
				t.Fatalf("round %d: %d comes where %d should: %q", round, n, next, tty.text())
			}
			next++
		}
	}
}

// numbers are the lines of a text that are numbers, the echo of Ctrl-C before one put aside.
func numbers(text string) []int {
	var list []int
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "^C")
		if n, err := strconv.Atoi(line); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// runInto starts or goes on with a command under run, with standard output in a file that is emptied first, as > does.
func (tg *target) runInto(out string, command ...string) {
	tg.t.Helper()
	tg.run(exec.Command(built.cmd, append([]string{"run", "--dir", "job", "--"}, command...)...), out, out+".err")
	tg.pid = tg.cmd.Process.Pid
}

// stopRun saves and stops it.
func (tg *target) stopRun(out string) {
	tg.t.Helper()
	if err := tg.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		tg.t.Fatal(err)
	}
	if status := tg.join(); status != 130 {
		tg.t.Fatalf("status %d after SIGTERM: %s", status, tg.read(out+".err"))
	}
}

// SIGTERM does what Ctrl-C does. The same line again, which empties the output first, makes it complete; and a command
// that ended starts afresh.
func TestRunToTheEnd(t *testing.T) {
	p := caseNamed(t, "counter")
	want := control(t, p)
	tg := prepare(t, p)
	tg.runInto("out", p.command()...)
	tg.waitReady()
	tg.stopRun("out")
	tg.runInto("out", p.command()...)
	same(t, "second run", tg.finish(), want)
	tg.runInto("out", p.command()...)
	same(t, "third run, from the start", tg.finish(), want)
}

// The standard streams of the command are those of the run that goes on with it: another file has what came since, the
// same one, which the shell empties, has everything.
func TestRunRedirected(t *testing.T) {
	tg := prepare(t, program{name: "run"})
	next, seen := 1, 0
	for round, out := range []string{"out", "out", "out", "other", "other"} {
		if out != "out" && round == 3 {
			next, seen = seen+1, 0 // it begins where the first file ends
		}
		tg.runInto(out, counterExample(), "20")
		want := seen + 3
		tg.poll("counting", func() bool { return len(numbers(tg.read(out))) >= want || tg.ended() })
		tg.stopRun(out)
		list := numbers(tg.read(out))
		for i, n := range list {
			if n != next+i {
				t.Fatalf("round %d: %d comes where %d should: %q", round, n, next+i, tg.read(out))
			}
		}
		seen = len(list)
	}
}

// A command's own exit status, and its death by a signal, are passed on.
func TestRunPassesStatusOn(t *testing.T) {
	for script, want := range map[string]int{"exit 7": 7, "kill -9 $$": 137, "true": 0} {
		if _, errs, status := ckptIn(t, t.TempDir(), "run", "--", "/bin/sh", "-c", script); status != want {
			t.Errorf("%s: status %d, want %d: %s", script, status, want, errs)
		}
	}
}

// A file that no name of the program leads to, as where its root directory is below the one of whoever sends its output
// there, cannot be opened again: the output goes where that of the restore does, or nowhere if that has none.
func TestOutputWithoutAName(t *testing.T) {
	tg := start(t, program{name: "output", argv: []string{"counter", "700"}})
	if err := os.Mkdir(tg.path("elsewhere"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Link(tg.path("out"), tg.path("elsewhere/out")), os.Remove(tg.path("out"))); err != nil {
		t.Fatal(err)
	}
	tg.snap("--kill")
	tg.join()
	before := tg.read("elsewhere/out")
	tg.goOn()
	tg.restore("image")
	if status := tg.join(); status != 0 {
		t.Fatalf("status %d: %s", status, tg.read("restore.err"))
	}
	if after := tg.read("restore.out"); tg.read("elsewhere/out") != before || !strings.HasPrefix(after, "sum ") {
		t.Errorf("the file went on, or the restore's output has not the rest:\n%q\n%q", tg.read("elsewhere/out"), after)
	}
	if _, errs, status := tg.ckpt("restore", "image", "--detach"); status != 0 {
		t.Errorf("restore --detach: status %d: %s", status, errs)
	}
	tg.poll("the end", func() bool {
		var ws syscall.WaitStatus
		pid, _ := syscall.Wait4(tg.pid, &ws, syscall.WNOHANG, nil)
		return pid == tg.pid
	})
}
