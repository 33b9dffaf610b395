package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// long are the programs that compute for a second or so and are snapped wherever they happen to be.
func long(t *testing.T) []program {
	t.Helper()
	python, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		t.Fatal(err)
	}
	script := func(name string) string {
		path, err := filepath.Abs(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	perl, err := exec.LookPath("perl")
	if err != nil {
		t.Fatal(err)
	}
	return []program{
		{name: "counter", argv: []string{"counter", "700"}, args: 1, wait: computes, output: []string{"count.txt"}},
		{
			name: "static", argv: []string{"counter-static", "700"}, args: 1, wait: computes,
			output: []string{"count.txt"},
		},
		{name: "threads", argv: []string{"threads", "900"}, args: 1, wait: computes},
		{name: "threads-static", argv: []string{"threads-static", "900"}, args: 1, wait: computes},
		{name: "openmp", argv: []string{"omp", "1200"}, wait: computes},
		{name: "sse", argv: []string{"vectors", "sse", "900000000"}, wait: computes},
		{name: "avx2", argv: []string{"vectors", "avx2", "900000000"}, wait: computes, status: 3},
		{name: "avx512", argv: []string{"vectors", "avx512", "300000000"}, wait: computes, status: 3},
		{name: "x87", argv: []string{"vectors", "x87", "1500000000"}, wait: computes},
		{
			name: "python", argv: []string{strings.TrimSpace(string(python)), script("pi.py"), "5000"}, args: 2,
			wait: computes,
		},
		{name: "perl", argv: []string{perl, script("primes.pl"), "1200000"}, wait: computes},
		{name: "goroutines", argv: []string{"goroutines", "700"}, args: 1, wait: computes},
		{name: "pipeline", argv: []string{"trees", "pipeline"}, args: 2, wait: computes},
	}
}

// special are the cases that are not treated as their program's others; nil means another test runs them.
var special = map[string]func(*program){
	"signals/sigsuspend":   func(p *program) { p.wait = inACall },
	"timers/itimer-real":   func(p *program) { p.outage = 700 * time.Millisecond },
	"timers/alarm":         func(p *program) { p.outage = 700 * time.Millisecond },
	"timers/posix-signal":  func(p *program) { p.outage = 700 * time.Millisecond },
	"timers/overrun-taken": func(p *program) { p.outage = 700 * time.Millisecond },
	"events/timerfd-dated": func(p *program) { p.outage = 700 * time.Millisecond },
	"timers/posix-thread":  func(p *program) { p.wait = computes }, // a thread comes and goes
	// A zombie's name and the signals it never took are not kept: all its parent can ask for is how it ended.
	"trees/zombie": func(p *program) { p.loses = []string{" Name", " SigBlk", " ShdPnd"} },
	"trees/killed": func(p *program) { p.loses = []string{" Name", " SigBlk", " SigIgn", " ShdPnd"} },
	// a second stop signal has no effect, see restore.queueStops
	"trees/stopped": func(p *program) { p.loses = []string{" ShdPnd"} },
	// the kernel tells the name that is left instead of the one that is gone
	"files/hard-link": func(p *program) { p.loses = []string{" map ", " fd "} },
	"proc/chroot":     func(p *program) { p.goFile = "jail/go" },
	"proc/executed":   nil, // what proc/exec becomes
	// As long as there is a semaphore, the source "proc" cannot tell whether others have operations to undo:
	// TestSemaphores.
	"sleeps/semtimedop": nil,
	"sleeps/semop":      nil,
	"fds/terminal":      nil, // TestTerminal
	"trees/pipeline":    nil, // among the long programs
	"forked/restless":   nil, // TestForkedRestless
}

// cases asks each program in C that has cases for their names: those listed, and those about one kind of descriptors.
func cases(t *testing.T) []program {
	t.Helper()
	progs := []string{"signals", "timers", "sleeps", "vmas", "files", "proc", "fds", "events", "trees", "forked"}
	kinds, err := filepath.Glob("testdata/fd_*.c")
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range kinds {
		progs = append(progs, strings.TrimSuffix(filepath.Base(source), ".c"))
	}
	var list []program
	for _, prog := range progs {
		names, err := exec.Command(filepath.Join(built.dir, prog)).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range strings.Fields(string(names)) {
			p := program{name: prog + "/" + name, argv: []string{prog, name}}
			if prog == "sleeps" {
				p.wait, p.outage = inACall, 400*time.Millisecond
			}
			if change, ok := special[p.name]; ok {
				if change == nil {
					continue
				}
				change(&p)
			}
			list = append(list, p)
		}
	}
	return list
}

// caseNamed finds one case.
func caseNamed(t *testing.T, name string) program {
	t.Helper()
	for _, p := range append(cases(t), long(t)...) {
		if p.name == name {
			return p
		}
	}
	t.Fatalf("no program %s", name)
	return program{}
}

// lacking reports that a program said this machine lacks what it is about (a CPU feature).
func lacking(p program, r result) bool { return p.status != 0 && r.status == p.status }
