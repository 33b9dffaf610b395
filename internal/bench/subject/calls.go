package subject

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Call is one round of a system call, or of several that together leave nothing behind.
type Call struct {
	Name     string
	Recorded int  // how many of its system calls a watch records
	Made     int  // how many system calls it makes
	Heavy    bool // tens of microseconds rather than hundreds of nanoseconds
}

// calls must name exactly the rounds of calls.c.
var calls = []Call{
	{"mmap+munmap", 2, 2, false},
	{"mprotect*2", 2, 2, false},
	{"brk*2", 2, 2, false},
	{"madvise", 1, 1, false},
	{"open+close", 2, 2, false},
	{"dup+close", 2, 2, false},
	{"fcntl", 1, 1, false},
	{"pipe+close*2", 3, 3, false},
	{"socket+close", 2, 2, false},
	{"eventfd+close", 2, 2, false},
	{"epoll_create+close", 2, 2, false},
	{"memfd_create+close", 2, 2, false},
	{"sigaction", 1, 1, false},
	{"sigprocmask", 1, 1, false},
	{"sigaltstack", 1, 1, false},
	{"prlimit*2", 2, 2, false},
	{"umask", 1, 1, false},
	{"chdir", 1, 1, false},
	{"prctl", 1, 1, false},
	{"fork+exit+wait", 2, 3, true},
	{"getppid", 0, 1, false},
	{"read", 0, 1, false},
	{"write", 0, 1, false},
	{"lseek", 0, 1, false},
	{"sched_yield", 0, 1, false},
	{"mix", 4, 8, true}, // a bit of everything
}

// Calls returns all rounds, those with recorded calls first.
func Calls() []Call { return slices.Clone(calls) }

// Caller is a running process of the calls program.
type Caller struct {
	Pid int // of the process started, which may be a tracer of the one that answers
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// StartCalls starts cmd, which must be the calls program or something that runs it with its standard streams.
func StartCalls(cmd *exec.Cmd) (*Caller, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return &Caller{Pid: cmd.Process.Pid, cmd: cmd, in: in, out: bufio.NewReader(out)}, nil
}

// Measure lets the process make count rounds and returns what they took by its own clock.
func (c *Caller) Measure(call string, count int) (time.Duration, error) {
	if _, err := fmt.Fprintf(c.in, "%s %d\n", call, count); err != nil {
		return 0, fmt.Errorf("ask for %s: %w", call, err)
	}
	line, err := c.out.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("read the answer about %s: %w", call, err)
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the answer about %s: %w", call, err)
	}
	if ns < 0 {
		return 0, fmt.Errorf("%w: the round %s failed", ErrSubject, call)
	}
	return time.Duration(ns), nil
}

// Stop ends the process and waits for it.
func (c *Caller) Stop() {
	_ = c.in.Close() // which it takes as the end
	_ = c.cmd.Wait() // nothing hangs on its status
}
