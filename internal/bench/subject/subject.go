// Package subject holds the processes that the benchmarks, and the tests of the kernel matrix, save and bring back:
// static programs without a C library or a runtime, so that a process of one holds what was asked for and nothing else.
// They are written in freestanding C (folder src) and committed as built, like the BPF objects; src/build makes them
// again.
package subject

import (
	"context"
	_ "embed" // a source
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

//go:generate ./src/build

// callsSource is the source of calls, which a benchmark also builds against the C library.
//
//go:embed src/calls.c
var callsSource []byte

// InstallSubject writes the subject program into dir and returns its path. The file must stay for as long as images of
// it are used.
func InstallSubject(dir string) (string, error) {
	subject, _, err := programs()
	if err != nil {
		return "", err
	}
	return install(dir, "subject", subject, 0o755)
}

// InstallCalls writes the program that repeats system calls into dir and returns its path.
func InstallCalls(dir string) (string, error) {
	_, calls, err := programs()
	if err != nil {
		return "", err
	}
	return install(dir, "calls", calls, 0o755)
}

// InstallCallsSource writes the C source of that program into dir and returns its path.
func InstallCallsSource(dir string) (string, error) {
	return install(dir, "calls.c", callsSource, 0o644)
}

func install(dir, name string, content []byte, perm os.FileMode) (string, error) {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, content, perm); err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	return path, nil
}

// Memory is a process with that much private memory, half of it random; the rest compresses well.
func Memory(bytes int64) []string { return []string{"memory", strconv.FormatInt(bytes, 10)} }

// Writing is Memory that writes about rate pages a second.
func Writing(bytes int64, rate int) []string {
	return []string{"write", strconv.FormatInt(bytes, 10), strconv.Itoa(rate)}
}

// Mappings is a process with n mappings of one page each.
func Mappings(n int) []string { return []string{"mappings", strconv.Itoa(n)} }

// Descriptors is a process with n open file descriptions of file, each with an offset of its own.
func Descriptors(n int, file string) []string { return []string{"descriptors", strconv.Itoa(n), file} }

// Threads is a process with n threads besides the first one, waiting on a futex.
func Threads(n int) []string { return []string{"threads", strconv.Itoa(n)} }

// Process is a running subject. It has no descriptors but /dev/null on the standard streams.
//
// Nothing waits for it before Kill: a wait(2) in any thread of ours would take the ptrace stops of a child from the
// thread that traces it (kernel/exit.c, wait_consider_task).
type Process struct {
	Pid int
	cmd *exec.Cmd
}

// ErrSubject means that a subject did not do what it should.
var ErrSubject = errors.New("the test process failed")

// readyTimeout is how long a subject may take to set itself up or to check itself: 1 GiB takes a second, an emulated
// machine twenty times as long.
const readyTimeout = 2 * time.Minute

// Start starts the program at path and waits until it holds what it was asked for.
func Start(ctx context.Context, path string, args []string) (*Process, error) {
	cmd := exec.Command(path, args...)
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no part of our terminal
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	p := &Process{Pid: cmd.Process.Pid, cmd: cmd}
	if _, err := awaitName(ctx, p.Pid, func(name string) bool { return name == "ready" }); err != nil {
		p.Kill()
		return nil, fmt.Errorf("%w: %s: %w", ErrSubject, strings.Join(args, " "), err)
	}
	return p, nil
}

// Kill ends the process and waits until its pid is free.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	_ = p.cmd.Wait()         // it was killed
}

// Check lets the subject with this pid, started here or restored, check everything it holds.
func Check(ctx context.Context, pid int) error {
	before, err := procfs.Pid(pid).Comm()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSubject, err)
	}
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		return fmt.Errorf("signal pid %d: %w", pid, err)
	}
	after, err := awaitName(ctx, pid, func(n string) bool { return n != before })
	if err != nil {
		return fmt.Errorf("%w: no answer: %w", ErrSubject, err)
	}
	if !strings.HasPrefix(after, "ok ") {
		return fmt.Errorf("%w: pid %d finds its state damaged: %q", ErrSubject, pid, after)
	}
	return nil
}

// awaitName polls the process's name until it is as wanted.
func awaitName(ctx context.Context, pid int, wanted func(string) bool) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		st, err := procfs.Pid(pid).Stat()
		if err != nil {
			return "", err
		}
		if wanted(st.Comm) {
			return st.Comm, nil
		}
		if st.State == 'Z' {
			return "", fmt.Errorf("it ended: %q", st.Comm)
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("it still says %q: %w", st.Comm, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}
