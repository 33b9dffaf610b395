// Package procfs reads the files below /proc that tell the state of a process. Each parser takes an io.Reader, is
// strict, and refuses with a fault what it does not know: a field skipped here would be a process broken at restore.
// The formats are those of proc(5) and Documentation/filesystems/proc.rst; each parser names the kernel function that
// prints its file.
//
// A Dir is a /proc/PID or /proc/PID/task/TID directory; its methods open a file of it and parse it. Nothing here
// disturbs or stops a process. What is read of a running one is a mere snapshot: consistent within one read(2) of a
// small file, no further.
package procfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Deleted is what the kernel appends to the name of what has none any more: in links of /proc/PID, and in maps.
const Deleted = " (deleted)"

// Dir is the directory of a process or a thread below /proc.
type Dir string

// Pid returns the directory of a process.
func Pid(pid int) Dir { return Dir("/proc/" + strconv.Itoa(pid)) }

// Task returns the directory of one thread of a process.
func Task(pid, tid int) Dir { return Pid(pid) + Dir("/task/"+strconv.Itoa(tid)) }

// object is what faults about the directory name: "pid 12" or "thread 13 of pid 12".
func (d Dir) object() string {
	parts := strings.Split(string(d), "/")
	if len(parts) == 5 && parts[3] == "task" {
		return fmt.Sprintf("thread %s of pid %s", parts[4], parts[2])
	}
	return "pid " + filepath.Base(string(d))
}

// fail turns the error of an operation on a file of d into a fault.
func (d Dir) fail(name string, err error) error {
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	path := string(d) + "/" + name
	switch {
	case errors.Is(err, unix.ESRCH):
		return fault.New(fault.TargetGone, d.object(), "read %s: %w", path, err)
	case errors.Is(err, os.ErrNotExist) && !exists(string(d)):
		return fault.New(fault.TargetGone, d.object(), "read %s: %w", path, err)
	case errors.Is(err, os.ErrPermission):
		return fault.New(fault.NoRights, d.object(), "read %s: %w", path, err)
	}
	return fault.New(fault.ProcRead, d.object(), "read %s: %w", path, err)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// errFormat is what parsers return; Dir adds which process it was about.
type errFormat struct {
	code  fault.Code
	file  string // name below the Dir
	cause string
}

func (e *errFormat) Error() string { return e.file + ": " + e.cause }

func unknown(file, format string, args ...any) error {
	return &errFormat{code: fault.ProcFormat, file: file, cause: fmt.Sprintf(format, args...)}
}

// parse opens a file of d and hands it to a parser.
func parse[T any](d Dir, name string, parser func(io.Reader) (T, error)) (T, error) {
	var zero T
	f, err := os.Open(string(d) + "/" + name)
	if err != nil {
		return zero, d.fail(name, err)
	}
	defer f.Close()
	v, err := parser(f)
	if err != nil {
		return zero, d.explain(name, err)
	}
	return v, nil
}

// explain is fail for the error of a parser.
func (d Dir) explain(name string, err error) error {
	var format *errFormat
	if errors.As(err, &format) {
		return fault.New(format.code, d.object(), "%s/%s: %s", string(d), name, format.cause)
	}
	return d.fail(name, err)
}

// Read returns a whole file of d.
func (d Dir) Read(name string) ([]byte, error) {
	b, err := os.ReadFile(string(d) + "/" + name)
	if err != nil {
		return nil, d.fail(name, err)
	}
	return b, nil
}

// Link returns the target of a symbolic link of d: cwd, root, exe, fd/N, ns/mnt, map_files/START-END.
func (d Dir) Link(name string) (string, error) {
	s, err := os.Readlink(string(d) + "/" + name)
	if err != nil {
		return "", d.fail(name, err)
	}
	return s, nil
}

// Stat2 follows a link of d and returns what stat(2) says of the object it leads to, whether or not that still has a
// name.
func (d Dir) Stat2(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Stat(string(d)+"/"+name, &st); err != nil {
		return st, d.fail(name, err)
	}
	return st, nil
}

// Pids lists the processes that a mounted proc shows, in the order in which it does.
func Pids(proc string) ([]int, error) {
	f, err := os.Open(proc)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil { // else it is none
			out = append(out, pid)
		}
	}
	return out, nil
}

// numbers lists the entries of a directory whose names are numbers, ascending.
func (d Dir) numbers(name string) ([]int, error) {
	f, err := os.Open(string(d) + "/" + name)
	if err != nil {
		return nil, d.fail(name, err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, d.fail(name, err)
	}
	out := make([]int, 0, len(names))
	for _, s := range names {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, d.explain(name, unknown(name, "entry %q is not a number", s))
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

// Tasks lists the threads of a process, ascending by id.
func (d Dir) Tasks() ([]int, error) { return d.numbers("task") }

// FDs lists the open descriptors, ascending.
func (d Dir) FDs() ([]int, error) { return d.numbers("fd") }

// Children lists the children that this thread made (or was given), in birth order. It needs CONFIG_PROC_CHILDREN, and
// is only reliable while the children are stopped.
func (d Dir) Children() ([]int, error) { return parse(d, "children", ParseChildren) }

// ParseChildren parses /proc/PID/task/TID/children (fs/proc/array.c, children_seq_show): ids separated by blanks.
func ParseChildren(r io.Reader) ([]int, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, word := range strings.Fields(string(b)) {
		n, err := strconv.Atoi(word)
		if err != nil {
			return nil, unknown("children", "%q is not a pid", word)
		}
		out = append(out, n)
	}
	return out, nil
}

// Line is one "key: value" line of a file.
type Line struct{ Key, Value string }

// lines calls f for each line, without its newline.
func lines(r io.Reader, f func(string) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), 1<<20)
	for s.Scan() {
		if err := f(s.Text()); err != nil {
			return err
		}
	}
	return s.Err()
}

// oneLine reads a file that holds one value.
func oneLine(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, 1<<16))
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}
