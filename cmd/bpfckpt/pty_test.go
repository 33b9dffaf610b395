package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/job"
)

// console is a terminal with a program of its own session on it, as a person has one.
type console struct {
	t      *testing.T
	master *os.File
	proc   *os.Process
	mu     sync.Mutex
	seen   bytes.Buffer
}

// newConsole starts a program on a new terminal, in dir.
func newConsole(t *testing.T, dir, path string, args ...string) *console {
	t.Helper()
	// Not blocking, so that closing it ends a read.
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "/dev/ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	c := &console{t: t, master: master}
	c.proc, err = os.StartProcess(path, args, &os.ProcAttr{
		Dir: dir, Env: append(os.Environ(), "PS1=> ", "TERM=dumb", "HISTFILE="),
		Files: []*os.File{slave, slave, slave}, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.hangUp) // what is left on the terminal ends
	go c.watch()
	return c
}

// commands makes a directory with the commands of the scripts, bpfckpt and counter.
func commands(t *testing.T) string {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bpfckpt", "counter"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (c *console) watch() {
	buf := make([]byte, 4096)
	for {
		n, err := c.master.Read(buf)
		c.mu.Lock()
		c.seen.Write(buf[:n])
		c.mu.Unlock()
		if err != nil {
			return // hung up
		}
	}
}

func (c *console) screen() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen.String()
}

func (c *console) typed(text string) {
	c.t.Helper()
	if _, err := c.master.WriteString(text); err != nil {
		c.t.Fatal(err)
	}
}

// expect waits until the screen shows a pattern after what was expected last.
func (c *console) expect(pattern string) string {
	c.t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		loc := re.FindIndex(c.seen.Bytes())
		if loc != nil {
			found := string(c.seen.Next(loc[1]))[loc[0]:]
			c.mu.Unlock()
			return found
		}
		c.mu.Unlock()
	}
	c.t.Fatalf("the terminal does not show %q, but %q", pattern, c.screen())
	return ""
}

func (c *console) exits(code int) {
	c.t.Helper()
	st, err := c.proc.Wait()
	if err != nil {
		c.t.Fatal(err)
	}
	if got := job.ExitCode(unix.WaitStatus(st.Sys().(syscall.WaitStatus))); got != code {
		c.t.Fatalf("exit status %d instead of %d; the terminal shows %q", got, code, c.screen())
	}
}

// hangUp takes the terminal away.
func (c *console) hangUp() { c.master.Close() }

// leavesForeground waits until the terminal belongs to another group than that of the program.
func (c *console) leavesForeground() {
	c.t.Helper()
	var pgid int
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		conn, err := c.master.SyscallConn()
		if err != nil {
			c.t.Fatal(err)
		}
		err2 := conn.Control(func(fd uintptr) { pgid, err = unix.IoctlGetInt(int(fd), unix.TIOCGPGRP) })
		if err := errors.Join(err, err2); err != nil {
			c.t.Fatal(err)
		}
		if pgid != c.proc.Pid {
			return
		}
	}
	c.t.Fatal("the program keeps the foreground")
}

const self = "/proc/self/exe"

// wentOn is what the terminal shows when a counter has gone on to 8. That it does is said once it runs: on a busy
// machine it has counted to its end by then.
const wentOn = `(?s)(going on from.*\r\n8\r\n|\r\n8\r\n.*going on from[^\n]*\n)`

// A program that reads the terminal gets the foreground, is saved by a signal, and goes on reading from another
// terminal.
func TestRunHandsOverTheTerminal(t *testing.T) {
	dir := t.TempDir()
	c := newConsole(t, dir, self, "bpfckpt", "run", "--dir", "d", "--", "cat")
	c.expect("reads from the terminal")
	c.typed("one\n")
	c.expect("(?s)one\r\n.*one\r\n")
	if err := c.proc.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.expect("saved d@")
	c.exits(130)

	c = newConsole(t, dir, self, "bpfckpt", "run", "--dir", "d", "--", "cat")
	c.expect("going on from d@")
	c.typed("two\n")
	c.expect("(?s)two\r\n.*two\r\n")
	c.typed("\x04")
	c.exits(0)

	c = newConsole(t, dir, self, "bpfckpt", "restore", "d")
	c.expect("restored ")
	c.typed("three\n")
	c.expect("(?s)three\r\n.*three\r\n")
	c.typed("\x03") // the program's own now
	c.exits(128 + int(unix.SIGINT))
}

// In a shell with job control: Ctrl-Z stops the command and us, fg continues both, Ctrl-C saves, and the same line goes
// on.
func TestJobControl(t *testing.T) {
	dir := t.TempDir()
	stop := filepath.Join(dir, "stop-5")
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", commands(t)+":"+os.Getenv("PATH"))
	sh := newConsole(t, dir, "/bin/bash", "bash", "--norc", "--noprofile", "-i")
	sh.expect("> ")
	sh.typed("bpfckpt run --dir d -- counter 8\n")
	sh.expect("5\r\n")
	sh.typed("\x1a")
	sh.expect("Stopped.*\r\n")
	sh.typed("fg\n")
	sh.expect("fg\r\nbpfckpt run.*\r\n")
	sh.leavesForeground()
	sh.typed("\x03")
	sh.expect("saved d@")
	sh.typed("echo status $?\n")
	sh.expect("status 130\r\n")
	if err := os.Remove(stop); err != nil {
		t.Fatal(err)
	}
	sh.typed("bpfckpt run --dir d -- counter 8\n")
	if rest := sh.expect(wentOn); strings.Contains(rest, "\r\n5\r\n") {
		t.Errorf("it did not go on: %q", rest)
	}
	sh.typed("echo status $?\n")
	sh.expect("status 3\r\n")
	sh.typed("exit 0\n")
	sh.exits(0)
}

// A connection that breaks is a SIGHUP: the command is saved, and goes on at another terminal.
func TestHangUpSaves(t *testing.T) {
	// A runner of tests may have been started by nohup(1). What is caught here has its default action in a program
	// started from here.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGHUP)
	defer signal.Stop(caught)
	dir := t.TempDir()
	stop := filepath.Join(dir, "stop-5")
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", commands(t)+":"+os.Getenv("PATH"))
	c := newConsole(t, dir, self, "bpfckpt", "run", "--", "counter", "8")
	c.expect("5\r\n")
	c.hangUp()
	c.exits(130)
	if err := os.Remove(stop); err != nil {
		t.Fatal(err)
	}
	c = newConsole(t, dir, self, "bpfckpt", "run", "--", "counter", "8")
	c.expect(wentOn)
	c.exits(3)
}
