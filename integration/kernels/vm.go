package kernels

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine is a virtual machine to boot.
type Machine struct {
	Kernel   Kernel
	CPUs     int           // 0 means 2
	MemoryMB int           // 0 means 1024
	Append   string        // added to the kernel command line
	Timeout  time.Duration // of the whole run, host time; 0 means five minutes
	Output   io.Writer     // gets the commands' output as it comes, and one line per event; nil means nowhere
}

// Outcome is how one command ended.
type Outcome struct {
	Event
	Output []byte // what it wrote to standard output and error
}

// OK reports whether the command ended by itself with status 0.
func (o Outcome) OK() bool { return o.Exit == 0 && o.Error == "" && !o.TimedOut }

// Report is what came of a run.
type Report struct {
	Release  string // uname -r in the guest
	Boot     time.Duration
	Outcomes []Outcome // of the commands that ended, in the order of the plan
	Done     bool      // the guest said so itself
	Console  []byte    // the kernel's messages
}

// ErrGuest means that the guest did not run its plan to the end.
var ErrGuest = errors.New("the guest did not finish")

// Run boots the machine with the tree as its root and carries out the plan. The tree must hold the init at "init". The
// error is about the machine; how the commands fared is in the report, which is not nil unless QEMU could not be
// started.
func (m Machine) Run(ctx context.Context, tree *Tree, plan Plan) (*Report, error) {
	dir, err := os.MkdirTemp("", "bpfckpt-kernels-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	initrd := filepath.Join(dir, "initramfs")
	if err := tree.write(initrd, plan); err != nil {
		return nil, err
	}
	if m.Timeout == 0 {
		m.Timeout = 5 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	console := filepath.Join(dir, "console")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", m.args(initrd, console)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // no machine outlives its test
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start qemu: %w", err)
	}
	rep := &Report{}
	readErr := rep.read(out, m.Output)
	waitErr := cmd.Wait()
	rep.Console, _ = os.ReadFile(console) // absent if QEMU refused its arguments
	return rep, rep.verdict(ctx, errors.Join(readErr, waitErr), complaints.String())
}

func (m Machine) args(initrd, console string) []string {
	cpus, mem := m.CPUs, m.MemoryMB
	if cpus == 0 {
		cpus = 2
	}
	if mem == 0 {
		mem = 1024
	}
	// tsc=reliable and no_timer_check spare calibration loops that an emulated clock makes slow or makes fail.
	cmdline := "console=ttyS0 quiet loglevel=4 panic=-1 rdinit=/init tsc=unstable clocksource=hpet no_timer_check " +
		m.Append
	return []string{
		"-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "q35",
		"-smp", strconv.Itoa(cpus), "-m", strconv.Itoa(mem),
		"-kernel", m.Kernel.Image, "-initrd", initrd, "-append", strings.TrimSpace(cmdline),
		"-display", "none", "-nodefaults", "-no-user-config", "-no-reboot",
		"-serial", "file:" + console, "-serial", "stdio",
	}
}

// read takes the protocol from the second serial port until the machine is switched off.
func (r *Report) read(in io.Reader, echo io.Writer) error {
	if echo == nil {
		echo = io.Discard
	}
	var current *Outcome
	br := bufio.NewReader(in)
	for {
		line, err := br.ReadString('\n')
		if e, ok := parseEvent(line); ok {
			current = r.event(e, current, echo)
		} else if line != "" && current != nil {
			current.Output = append(current.Output, line...)
			fmt.Fprint(echo, line)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the serial port: %w", err)
		}
	}
}

// event takes note of an event and returns the command that now runs, nil if none does.
func (r *Report) event(e Event, current *Outcome, echo io.Writer) *Outcome {
	switch e.Kind {
	case "boot":
		r.Release, r.Boot = e.Release, time.Duration(e.Millis)*time.Millisecond
		fmt.Fprintf(echo, "=== booted %s in %v\n", r.Release, r.Boot)
	case "start":
		fmt.Fprintf(echo, "=== %s\n", e.Name)
		return &Outcome{Event: e}
	case "end":
		o := Outcome{Event: e}
		if current != nil {
			o.Output = bytes.TrimSuffix(current.Output, []byte("\n"))
		}
		r.Outcomes = append(r.Outcomes, o)
		fmt.Fprintf(echo, "=== %s: %s\n", e.Name, o.Verdict())
	case "done":
		r.Done = true
	}
	return nil
}

// Verdict says in a few words how the command ended.
func (o Outcome) Verdict() string {
	took := (time.Duration(o.Millis) * time.Millisecond).String()
	switch {
	case o.OK():
		return "ok, " + took
	case o.TimedOut:
		return "out of time after " + took
	case o.Error != "":
		return "failed: " + o.Error
	}
	return fmt.Sprintf("failed with status %d after %s", o.Exit, took)
}

func parseEvent(line string) (Event, bool) {
	rest, ok := strings.CutPrefix(line, Mark)
	if !ok {
		return Event{}, false
	}
	var e Event
	return e, json.Unmarshal([]byte(rest), &e) == nil
}

// consoleTail is how much of the kernel's messages an error quotes.
const consoleTail = 3000

func (r *Report) verdict(ctx context.Context, err error, complaints string) error {
	if r.Done && err == nil {
		return nil
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = errors.Join(ErrGuest, errors.New("it ran out of time"))
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		err = errors.Join(ErrGuest, err)
	}
	tail := r.Console[max(0, len(r.Console)-consoleTail):]
	return fmt.Errorf("%w\nqemu: %s\nlast messages of the kernel:\n%s", err, complaints, tail)
}
