package integration

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pty is a pseudo-terminal whose output is collected.
type pty struct {
	master, slave *os.File
	mu            sync.Mutex
	out           bytes.Buffer
}

func openPty(t *testing.T) *pty {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
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
	p := &pty{master: os.NewFile(uintptr(fd), "ptmx"), slave: slave}
	go func() { _, _ = io.Copy(writerFunc(p.collect), p.master) }()
	t.Cleanup(func() {
		p.slave.Close()
		p.master.Close()
	})
	return p
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func (p *pty) collect(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// text is what was written to the terminal so far, with plain line ends.
func (p *pty) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.ReplaceAll(p.out.String(), "\r\n", "\n")
}

// launchOn starts a command as the leader of a session whose controlling terminal is p.
func (tg *target) launchOn(p *pty, cmd *exec.Cmd) {
	tg.t.Helper()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.slave, p.slave, p.slave
	cmd.Dir = tg.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		tg.t.Fatal(err)
	}
	done := make(chan struct{})
	tg.cmd, tg.done = cmd, done
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
}

// A program on a terminal comes back on the terminal of the restore command, with the settings it had made.
func TestTerminal(t *testing.T) {
	one, two := openPty(t), openPty(t)
	tg := prepare(t, program{name: "fds/terminal", argv: []string{"fds", "terminal"}, wait: waitsForGo})
	tg.launchOn(one, exec.Command(filepath.Join(built.dir, "fds"), "terminal"))
	tg.pid = tg.cmd.Process.Pid
	tg.awaitExe()
	tg.poll("READY", func() bool { return strings.Contains(one.text(), "READY\n") || tg.ended() })
	tg.snap()
	tg.kill()
	tg.launchOn(two, exec.Command(built.cmd, "restore", "image"))
	tg.poll("the restore", func() bool { return tg.ended() || tg.running() })
	tg.goOn()
	if status := tg.join(); status != 0 || !strings.Contains(two.text(), "OK\n") {
		t.Errorf("status %d: %s", status, two.text())
	}
}

// Python waits for input on a terminal; its answer comes after the restore, on another terminal.
func TestTerminalInput(t *testing.T) {
	one, two := openPty(t), openPty(t)
	p := caseNamed(t, "python")
	tg := prepare(t, p)
	script := `x = 20; name = input("name? "); print("hello", name, x + 22)`
	tg.launchOn(one, exec.Command(p.argv[0], "-c", script))
	tg.pid = tg.cmd.Process.Pid
	tg.awaitExe()
	tg.poll("the prompt", func() bool { return strings.Contains(one.text(), "name? ") || tg.ended() })
	tg.poll("going to sleep", func() bool { return tg.asleep() || tg.ended() })
	tg.snap()
	tg.kill()
	tg.launchOn(two, exec.Command(built.cmd, "restore", "image"))
	tg.poll("the restore", func() bool { return tg.ended() || tg.running() })
	time.Sleep(50 * time.Millisecond)
	if _, err := two.master.WriteString("ada\n"); err != nil {
		t.Fatal(err)
	}
	if status := tg.join(); status != 0 || !strings.Contains(two.text(), "hello ada 42") {
		t.Errorf("status %d: %s", status, two.text())
	}
}

// The leader of a session has its controlling terminal again, and the same process group is in the foreground of it; it
// has none where the policy is that nothing takes its place, though its standard streams lead to one.
func TestControllingTerminal(t *testing.T) {
	for _, flags := range [][]string{nil, {"--policy", "terminal=null"}} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) { controllingTerminal(t, flags) })
	}
}

func controllingTerminal(t *testing.T, flags []string) {
	one, two := openPty(t), openPty(t)
	tg := prepare(t, program{name: "fds/terminal", argv: []string{"fds", "terminal"}, wait: waitsForGo})
	tg.launchOn(one, exec.Command(filepath.Join(built.dir, "fds"), "terminal"))
	tg.pid = tg.cmd.Process.Pid
	tg.awaitExe()
	tg.poll("READY", func() bool { return strings.Contains(one.text(), "READY\n") || tg.ended() })
	tg.snap()
	tg.kill()
	tg.launchOn(two, exec.Command(built.cmd, append([]string{"restore", "image"}, flags...)...))
	tg.poll("the restore", func() bool { return tg.ended() || tg.running() })
	var st unix.Stat_t
	if err := unix.Fstat(int(two.slave.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	want := []string{fmt.Sprint(st.Rdev), fmt.Sprint(tg.pid)}
	if flags != nil {
		want = []string{"0", "-1"}
	}
	if f := strings.Fields(slurp(fmt.Sprintf("/proc/%d/stat", tg.pid))); len(f) < 8 || !slices.Equal(f[6:8], want) {
		t.Errorf("controlling terminal and foreground group: %v, want %v", f, want)
	}
	tg.goOn()
	switch status := tg.join(); {
	case flags == nil && status != 0:
		t.Errorf("status %d: %s", status, two.text())
	case flags != nil && !strings.Contains(two.text(), "device of /dev/tty: have 259 "): // /dev/null, 1:3
		t.Errorf("status %d: /dev/tty is still open: %s", status, two.text())
	}
}
