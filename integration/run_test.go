package integration

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The classic demonstration, on a terminal: 1 2 3, Ctrl-C, the same command, 4 5 6. No number is missing, none comes twice.
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

// SIGTERM does what Ctrl-C does, and a command that ended starts afresh.
func TestRunToTheEnd(t *testing.T) {
	p := caseNamed(t, "counter")
	want := control(t, p)
	tg := prepare(t, p)
	run := func(out string) {
		tg.run(exec.Command(built.cmd, append([]string{"run", "--dir", "job", "--"}, p.command()...)...), out, out+".err")
		tg.pid = tg.cmd.Process.Pid
	}
	run("out")
	tg.waitReady()
	if err := tg.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := tg.join(); status != 130 {
		t.Fatalf("status %d after SIGTERM: %s", status, tg.read("out.err"))
	}
	run("unused") // the program's standard output is the file it was
	same(t, "second run", tg.finish(), want)
	run("out")
	same(t, "third run, from the start", tg.finish(), want)
}

// A command's own exit status, and its death by a signal, are passed on.
func TestRunPassesStatusOn(t *testing.T) {
	for script, want := range map[string]int{"exit 7": 7, "kill -9 $$": 137, "true": 0} {
		if _, errs, status := ckptIn(t, t.TempDir(), "run", "--", "/bin/sh", "-c", script); status != want {
			t.Errorf("%s: status %d, want %d: %s", script, status, want, errs)
		}
	}
}
