package procfs

import (
	"io"
	"strings"
)

// Call is a system call that a thread is blocked in.
type Call struct {
	Nr     uint64
	Args   [6]uint64
	SP, PC uint64 // what the thread goes on with when it is over
}

// Call parses syscall (fs/proc/base.c, proc_pid_syscall); nil if the thread is not blocked, or not in a system call. It
// needs CONFIG_HAVE_ARCH_TRACEHOOK, and the rights of ptrace(2).
func (d Dir) Call() (*Call, error) { return parse(d, "syscall", ParseCall) }

// ParseCall parses proc_pid_syscall(5).
func ParseCall(r io.Reader) (*Call, error) {
	text, err := oneLine(r)
	if err != nil || text == "running" || strings.HasPrefix(text, "-1 ") {
		return nil, err
	}
	var c Call
	into := []*uint64{
		&c.Nr, &c.Args[0], &c.Args[1], &c.Args[2], &c.Args[3], &c.Args[4], &c.Args[5], &c.SP, &c.PC,
	}
	words := strings.Fields(text)
	if len(words) != len(into) {
		return nil, unknown("syscall", "%d numbers in %q", len(words), text)
	}
	for i, word := range words {
		number, radix := word, 10
		if i > 0 {
			number, radix = strings.TrimPrefix(word, "0x"), 16
		}
		if !base(number, radix, into[i]) {
			return nil, unknown("syscall", "unknown value in %q", text)
		}
	}
	return &c, nil
}
