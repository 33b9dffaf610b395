package main

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/job"
	"github.com/bpfckpt/bpfckpt/restore"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

func selftestVerb() *verb {
	return &verb{
		name: "selftest", short: "snap, kill and restore canary programs here and now",
		long: "Starts canary programs (one of its own with several threads, sleep, and python3 where it is installed), saves each while\n" +
			"it runs, kills it with -9, restores it, and checks that it goes on in the same process as if nothing had happened.",
		examples: []example{
			{"bpfckpt selftest", "each step with its time"},
			{"bpfckpt selftest --json | jq .ok", "for scripts"},
		},
		exits: []fault.Class{fault.Failed, fault.KernelLacks, fault.Unsupported, fault.RolledBack, fault.Interrupted},
		run:   selftest,
	}
}

// stepJSON is a step of a canary's test.
type stepJSON struct {
	Step  string     `json:"step"`
	OK    bool       `json:"ok"`
	US    int64      `json:"us"`
	Error *errorJSON `json:"error,omitempty"`
}

// canaryJSON is a canary's test.
type canaryJSON struct {
	Canary string     `json:"canary"`
	OK     bool       `json:"ok"`
	Steps  []stepJSON `json:"steps"`
}

// canaryKind is a program to test with.
type canaryKind struct {
	name   string
	path   string
	args   []string // {} is the file it writes, if it writes one
	status int      // how it ends on SIGTERM, as job.ExitCode has it
}

func (k canaryKind) writes() bool { return k.args[len(k.args)-1] == "{}" }

// canaryKinds lists the canaries this machine has.
func canaryKinds() []canaryKind {
	kinds := []canaryKind{{"bpfckpt", "/proc/self/exe", []string{"bpfckpt", canaryVerb, "{}"}, canaryStatus}}
	if path, err := exec.LookPath("sleep"); err == nil {
		kinds = append(kinds, canaryKind{"sleep", path, []string{"sleep", "3600"}, 128 + int(unix.SIGTERM)})
	}
	// What a version manager puts on the PATH is a script that leads to the interpreter.
	if path, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output(); err == nil {
		kinds = append(kinds, canaryKind{
			"python3", strings.TrimSpace(string(path)),
			[]string{"python3", "-c", pythonCanary, "{}"},
			canaryStatus,
		})
	}
	return kinds
}

func selftest(c *call) error {
	dir, err := os.MkdirTemp("", "bpfckpt-selftest-")
	if err != nil {
		return fault.New(fault.Selftest, os.TempDir(), "make a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	closeOnExec()
	var failed fault.List
	all := []canaryJSON{}
	for _, kind := range canaryKinds() {
		t := &canaryTest{
			call: c, kind: kind, dir: filepath.Join(dir, kind.name),
			report: canaryJSON{Canary: kind.name, OK: true},
		}
		if err := t.run(); err != nil {
			failed = append(failed, fault.Of(err)...)
		}
		all = append(all, t.report)
		if c.ctx.Err() != nil {
			return c.ctx.Err()
		}
	}
	if c.json {
		obj := struct {
			OK       bool         `json:"ok"`
			Canaries []canaryJSON `json:"canaries"`
		}{len(failed) == 0, all}
		if err := c.object(obj); err != nil {
			return err
		}
		if len(failed) > 0 {
			return status(failed[0].Class())
		}
	}
	return failed.OrNil()
}

// closeOnExec keeps descriptors that our caller left open from the canaries, where they would be in the way of a
// snapshot.
func closeOnExec() {
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // Linux 5.11; without it a canary says what it met
}

// canaryTest is one canary going through its life.
type canaryTest struct {
	*call
	kind   canaryKind
	dir    string
	pid    int
	child  bool // the process is our child and has not been waited for
	back   *job.Restored
	report canaryJSON
}

func (t *canaryTest) file() string { return filepath.Join(t.dir, "lines") }

func (t *canaryTest) run() error {
	defer t.cleanup()
	if !t.json {
		if err := t.print(t.kind.name + "\n"); err != nil {
			return err
		}
	}
	for _, s := range []struct {
		name string
		do   func() error
	}{
		{"start", t.start},
		{"snap", t.snap},
		{"kill -9", t.kill},
		{"restore", t.restore},
		{"go on", t.goesOn},
		{"end", t.end},
	} {
		begin := time.Now()
		err := s.do()
		if err2 := t.step(s.name, time.Since(begin), err); err2 != nil {
			return err2
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// step records and prints a step.
func (t *canaryTest) step(name string, took time.Duration, err error) error {
	s := stepJSON{Step: name, OK: err == nil, US: took.Microseconds()}
	word := "ok"
	if err != nil {
		e := jsonOf(fault.Of(err)[0])
		s.Error, t.report.OK, word = &e, false, "failed"
	}
	t.report.Steps = append(t.report.Steps, s)
	if t.json {
		return nil
	}
	return t.print(fmt.Sprintf("  %-8s %-6s %9s\n", name, word, durationText(took)))
}

func (t *canaryTest) fail(format string, args ...any) error {
	return fault.New(fault.Selftest, "canary "+t.kind.name, format, args...)
}

func (t *canaryTest) start() error {
	if err := os.Mkdir(t.dir, 0o700); err != nil {
		return t.fail("make a directory: %w", err)
	}
	args := append([]string(nil), t.kind.args...)
	if t.kind.writes() {
		args[len(args)-1] = t.file()
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return t.fail("open %s: %w", os.DevNull, err)
	}
	defer null.Close()
	p, err := os.StartProcess(t.kind.path, args, &os.ProcAttr{
		Dir: "/", Files: []*os.File{null, null, null}, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return t.fail("start it: %w", err)
	}
	t.pid, t.child = p.Pid, true
	if !t.kind.writes() {
		return t.sleeps()
	}
	return t.grows()
}

func (t *canaryTest) snap() error {
	_, err := snapshot.Snap(t.ctx, t.pid, snapshot.Options{Dir: filepath.Join(t.dir, "store")})
	if err != nil {
		return err
	}
	if t.kind.writes() {
		return t.grows() // it runs on
	}
	return nil
}

func (t *canaryTest) kill() error {
	if err := unix.Kill(t.pid, unix.SIGKILL); err != nil {
		return t.fail("kill it: %w", err)
	}
	ws, err := job.WaitChild(t.pid)
	t.child = false
	if err != nil {
		return t.fail("wait for it: %w", err)
	}
	if !ws.Signaled() || ws.Signal() != unix.SIGKILL {
		return t.fail("it ended by itself, with status %d", job.ExitCode(ws))
	}
	return nil
}

func (t *canaryTest) restore() error {
	r, err := image.Open(filepath.Join(t.dir, "store"))
	if err != nil {
		return err
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return t.fail("open %s: %w", os.DevNull, err)
	}
	defer null.Close()
	t.back, err = job.Restore(t.ctx, r, restore.Options{Std: [3]*os.File{null, null, null}})
	if err != nil {
		return err
	}
	if t.back.Root != t.pid {
		return t.fail("process %d came back as %d", t.pid, t.back.Root)
	}
	return nil
}

func (t *canaryTest) goesOn() error {
	if !t.kind.writes() {
		return t.sleeps()
	}
	return t.grows()
}

// end asks the canary to end and looks at what it left.
func (t *canaryTest) end() error {
	if err := unix.Kill(t.back.Root, unix.SIGTERM); err != nil {
		return t.fail("end it: %w", err)
	}
	ws, err := t.back.Await(t.ctx)
	if err != nil {
		return t.fail("wait for it: %w", err)
	}
	t.back = nil
	if got := job.ExitCode(ws); got != t.kind.status {
		return t.fail("it ended with status %d instead of %d", got, t.kind.status)
	}
	if !t.kind.writes() {
		return nil
	}
	text, err := os.ReadFile(t.file())
	if err != nil {
		return t.fail("read what it wrote: %w", err)
	}
	return t.checkChain(string(text))
}

// checkChain holds what the canary wrote against what it must have written.
func (t *canaryTest) checkChain(text string) error {
	var c chain
	for i, got := range strings.SplitAfter(text, "\n") {
		if got == "" {
			break // after the last line end
		}
		if want := c.next(); got != want {
			return t.fail("line %d of what it wrote is %q instead of %q", i+1, got, want)
		}
	}
	return nil
}

// canaryPatience is how long a canary may take to write a few lines.
const canaryPatience = 10 * time.Second

// grows waits until the file has grown by a few lines.
func (t *canaryTest) grows() error {
	const few = 100 // bytes
	size := func() int64 {
		st, err := os.Stat(t.file())
		if err != nil {
			return 0 // not yet
		}
		return st.Size()
	}
	from := size()
	return t.until("it writes nothing", func() bool { return size() >= from+few })
}

// sleeps waits until the process is asleep in its program (proc_pid_stat(5)).
func (t *canaryTest) sleeps() error {
	return t.until("it does not sleep", func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.pid))
		return err == nil && strings.Contains(string(text), "("+t.kind.name+") S ")
	})
}

func (t *canaryTest) until(complaint string, met func() bool) error {
	deadline := time.Now().Add(canaryPatience)
	for !met() {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return t.fail("%s for %s", complaint, canaryPatience)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

// cleanup ends what is left of the canary.
func (t *canaryTest) cleanup() {
	if t.child {
		_ = unix.Kill(t.pid, unix.SIGKILL) // a child that is not waited for cannot be gone
		_, _ = job.WaitChild(t.pid)
	}
	if t.back != nil {
		t.back.Abandon()
	}
}
