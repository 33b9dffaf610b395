// Command guestinit is the init of the kernel matrix's guests; see package kernels.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/integration/kernels"
)

// port is the serial port that carries the protocol.
const port = "/dev/ttyS1"

// defaultTimeout is the time a command has that names none.
const defaultTimeout = time.Minute

func main() {
	log.SetFlags(0)
	log.SetPrefix("guestinit: ")
	if os.Getpid() == 1 {
		initMain()
		return
	}
	if err := runPlan(); err != nil {
		log.Fatal(err)
	}
}

// initMain is pid 1: it prepares the guest, starts a copy of itself that runs the plan, reaps until that copy ends, and
// switches the machine off. Running commands from pid 1 itself would mix their wait status with that of orphans.
func initMain() {
	defer powerOff()
	mountAll()
	if err := loopbackUp(); err != nil {
		log.Printf("bring up lo: %v", err)
	}
	self, err := os.StartProcess("/proc/self/exe", []string{"runner"},
		&os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		log.Printf("start the runner: %v", err)
		return
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if pid == self.Pid {
			return
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			log.Printf("wait: %v", err)
			return
		}
	}
}

func powerOff() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		log.Printf("power off: %v", err)
	}
	select {} // an init that returns makes the kernel panic
}

// mounts are made in this order. One that fails is reported and left out: a kernel without tracefs is a kernel to test
// on.
var mounts = []struct {
	source, target, fstype, data string
	flags                        uintptr
}{
	{"proc", "/proc", "proc", "", 0},
	{"sysfs", "/sys", "sysfs", "", 0},
	{"devtmpfs", "/dev", "devtmpfs", "mode=0755", 0},
	{"devpts", "/dev/pts", "devpts", "mode=0620,ptmxmode=0666", 0},
	{"tmpfs", "/dev/shm", "tmpfs", "mode=1777", 0},
	{"tmpfs", "/run", "tmpfs", "mode=0755", 0},
	{"tmpfs", "/tmp", "tmpfs", "mode=1777", 0},
	{"debugfs", "/sys/kernel/debug", "debugfs", "", 0},
	{"tracefs", "/sys/kernel/tracing", "tracefs", "", 0},
	{"bpf", "/sys/fs/bpf", "bpf", "", 0},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", "", 0},
}

func mountAll() {
	for _, m := range mounts {
		if strings.HasPrefix(m.target, "/dev/") {
			if err := os.MkdirAll(m.target, 0o755); err != nil {
				log.Printf("make %s: %v", m.target, err)
			}
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			log.Printf("mount %s: %v", m.target, err)
		}
	}
	for _, l := range [][2]string{
		{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"},
	} {
		if err := os.Symlink(l[0], l[1]); err != nil {
			log.Printf("link: %v", err)
		}
	}
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr)
}

// runPlan runs every command of the plan and reports over the port.
func runPlan() error {
	tty, err := openPort()
	if err != nil {
		return err
	}
	defer tty.Close()
	var plan kernels.Plan
	b, err := os.ReadFile(kernels.PlanPath)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &plan); err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	emit(tty, kernels.Event{Kind: "boot", Release: release(), Millis: uptime()})
	for _, c := range plan.Commands {
		emit(tty, kernels.Event{Kind: "start", Name: c.Name})
		emit(tty, runCommand(c, tty))
	}
	emit(tty, kernels.Event{Kind: "done"})
	return drain(tty)
}

// openPort opens the port as a raw line: no echo, and no carriage return before a newline.
func openPort() (*os.File, error) {
	f, err := os.OpenFile(port, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read the line settings of %s: %w", port, err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("change the line settings of %s: %w", port, err)
	}
	return f, nil
}

// drain waits until the port has sent everything (tcdrain(3)).
func drain(f *os.File) error { return unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1) }

// emit writes an event on a line of its own, whatever the command before it left on the current one.
func emit(w io.Writer, e kernels.Event) {
	b, err := json.Marshal(e)
	if err != nil {
		log.Printf("encode an event: %v", err)
		return
	}
	if _, err := fmt.Fprintf(w, "\n%s%s\n", kernels.Mark, b); err != nil {
		log.Printf("write an event: %v", err)
	}
}

func runCommand(c kernels.Command, out io.Writer) kernels.Event {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Dir = c.Dir
	cmd.Env = append([]string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/root", "TMPDIR=/tmp"}, c.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// A Go test that runs out of time prints where it hangs when it gets SIGQUIT.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) }
	cmd.WaitDelay = 5 * time.Second // then SIGKILL, and its pipes are closed whoever still holds them
	start := time.Now()
	err := cmd.Run()
	e := kernels.Event{
		Kind: "end", Name: c.Name, Exit: -1, Millis: time.Since(start).Milliseconds(),
		TimedOut: ctx.Err() != nil,
	}
	if cmd.ProcessState != nil {
		e.Exit = cmd.ProcessState.ExitCode()
		if cmd.Process.Pid > 1 {
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // what it left behind in its group; most leave nothing
		}
	}
	var status *exec.ExitError
	if err != nil && (!errors.As(err, &status) || e.Exit < 0) {
		e.Error = err.Error()
	}
	return e
}

func release() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// uptime returns the milliseconds since the kernel started, 0 if /proc does not tell.
func uptime() int64 {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	s, err := strconv.ParseFloat(strings.Fields(string(b))[0], 64)
	if err != nil {
		return 0
	}
	return int64(s * 1000)
}
