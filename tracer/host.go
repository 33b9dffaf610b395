package tracer

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// This file is what iterators do not give: links and names of /proc, and system calls that take the id of a thread.
// None of it touches the target.

// places reads the links and texts of a process that has memory.
func places(p *model.Process) (err error) {
	dir := procfs.Pid(p.Pid)
	if p.Cwd, err = dir.Link("cwd"); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	if p.Root, err = dir.Link("root"); err != nil {
		return fmt.Errorf("root directory: %w", err)
	}
	if p.Exe.Path, err = dir.Link("exe"); err != nil {
		return fmt.Errorf("executable: %w", err)
	}
	if p.Args, err = dir.Args(); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	return nil
}

// affinity is sched_getaffinity(2), low word first, without trailing zero words.
func affinity(tid int) ([]uint64, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(tid, &set); err != nil {
		return nil, callFault("sched_getaffinity", tid, err)
	}
	words := make([]uint64, 0, len(set))
	for _, w := range set {
		words = append(words, uint64(w))
	}
	for len(words) > 0 && words[len(words)-1] == 0 {
		words = words[:len(words)-1]
	}
	return slices.Clip(words), nil
}

const ioprioWhoProcess = 1 // IOPRIO_WHO_PROCESS, include/uapi/linux/ioprio.h

// ioprio is ioprio_get(2) of one thread.
func ioprio(tid int) (int, error) {
	v, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(tid), 0)
	if errno != 0 {
		return 0, callFault("ioprio_get", tid, errno)
	}
	return int(v), nil
}

// advisedOnly tells whether the kernel knows PR_THP_DISABLE_EXCEPT_ADVISED (prctl(2), Linux 6.18). It is tried on
// ourselves, for a moment.
var advisedOnly = sync.OnceValue(func() bool {
	const set, get, exceptAdvised = unix.PR_SET_THP_DISABLE, unix.PR_GET_THP_DISABLE, 2
	was, err := unix.PrctlRetInt(get, 0, 0, 0, 0)
	if err != nil || unix.Prctl(set, 1, exceptAdvised, 0, 0) != nil {
		return false
	}
	if was&1 == 0 {
		was = 0
	}
	_ = unix.Prctl(set, uintptr(was&1), uintptr(was&exceptAdvised), 0, 0) // as it was
	return true
})

func callFault(call string, tid int, err error) error {
	code := fault.BPFRead
	if errors.Is(err, unix.ESRCH) {
		code = fault.TargetGone
	}
	return fault.New(code, fmt.Sprintf("thread %d", tid), "%s: %w", call, err)
}
