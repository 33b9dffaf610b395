package procfs

import (
	"encoding/binary"
	"errors"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Limit is one resource limit; ^uint64(0) is infinity.
type Limit struct{ Soft, Hard uint64 }

// limitNames are the names of /proc/PID/limits (fs/proc/base.c, lnames) by RLIMIT_* number.
var limitNames = [16]string{
	"Max cpu time", "Max file size", "Max data size", "Max stack size", "Max core file size", "Max resident set",
	"Max processes",
	"Max open files", "Max locked memory", "Max address space", "Max file locks", "Max pending signals",
	"Max msgqueue size",
	"Max nice priority", "Max realtime priority", "Max realtime timeout",
}

// Limits parses limits, in the units of setrlimit(2).
func (d Dir) Limits() ([16]Limit, error) { return parse(d, "limits", ParseLimits) }

// ParseLimits parses proc_pid_limits(5): columns of 26, 21, 21 and 10 characters.
func ParseLimits(r io.Reader) ([16]Limit, error) {
	var out [16]Limit
	n := -1
	err := lines(r, func(line string) error {
		n++
		if n == 0 {
			return nil // the heading
		}
		if n > 16 || !strings.HasPrefix(line, limitNames[n-1]+" ") {
			return unknown("limits", "unknown line %q", line)
		}
		words := strings.Fields(line[len(limitNames[n-1]):])
		if len(words) != 2 && len(words) != 3 || !limit(words[0], &out[n-1].Soft) || !limit(words[1], &out[n-1].Hard) {
			return unknown("limits", "unknown value in %q", line)
		}
		return nil
	})
	if err == nil && n != 16 {
		err = unknown("limits", "%d limits instead of 16", n)
	}
	return out, err
}

func limit(word string, out *uint64) bool {
	if word == "unlimited" {
		*out = ^uint64(0)
		return true
	}
	return base(word, 10, out)
}

// Timer is one record of /proc/PID/timers (fs/proc/base.c, show_timer). The file tells neither the time left nor the
// interval.
type Timer struct {
	ID     int
	Signo  int
	Value  uint64 // sigval
	Notify int    // SIGEV_SIGNAL 0, SIGEV_NONE 1, SIGEV_THREAD 2, with SIGEV_THREAD_ID 4 ored in for "tid."
	Target int    // thread group or, with SIGEV_THREAD_ID, thread
	Clock  int
}

// Timers parses the POSIX timers of a process, in the kernel's order. It needs CONFIG_CHECKPOINT_RESTORE.
func (d Dir) Timers() ([]Timer, error) { return parse(d, "timers", ParseTimers) }

var notifyNames = map[string]int{"signal": 0, "none": 1, "thread": 2}

// ParseTimers parses proc_pid_timers(5).
func ParseTimers(r io.Reader) ([]Timer, error) {
	var out []Timer
	keys := [4]string{"ID", "signal", "notify", "ClockID"}
	n := 0
	err := lines(r, func(line string) error {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if key != keys[n%4] {
			return unknown("timers", "unknown line %q", line)
		}
		if n%4 == 0 {
			out = append(out, Timer{})
		}
		if !out[len(out)-1].take(n%4, value) {
			return unknown("timers", "unknown value in %q", line)
		}
		n++
		return nil
	})
	if err == nil && n%4 != 0 {
		err = unknown("timers", "the last timer is cut off")
	}
	return out, err
}

func (t *Timer) take(field int, value string) bool {
	switch field {
	case 0:
		return decimal(value, &t.ID)
	case 1: // "60/00007fff86e452a8"
		signo, sigval, ok := strings.Cut(value, "/")
		return ok && decimal(signo, &t.Signo) && base(sigval, 16, &t.Value)
	case 2: // "signal/pid.2634"
		how, whom, ok := strings.Cut(value, "/")
		scope, id, ok2 := strings.Cut(whom, ".")
		notify, known := notifyNames[how]
		t.Notify = notify
		switch scope {
		case "tid":
			t.Notify |= 4
		case "pid":
		default:
			return false
		}
		return ok && ok2 && known && decimal(id, &t.Target)
	}
	return decimal(value, &t.Clock)
}

// IO is /proc/PID/io (fs/proc/base.c, do_io_accounting), bytes and counts, dead threads included.
type IO struct {
	RChar, WChar, SyscR, SyscW                 uint64
	ReadBytes, WriteBytes, CancelledWriteBytes uint64
}

// IO parses the I/O accounting of a process. It needs CONFIG_TASK_IO_ACCOUNTING.
func (d Dir) IO() (IO, error) { return parse(d, "io", ParseIO) }

// ParseIO parses proc_pid_io(5).
func ParseIO(r io.Reader) (IO, error) {
	var out IO
	fields := map[string]*uint64{
		"rchar": &out.RChar, "wchar": &out.WChar, "syscr": &out.SyscR, "syscw": &out.SyscW,
		"read_bytes": &out.ReadBytes, "write_bytes": &out.WriteBytes, "cancelled_write_bytes": &out.CancelledWriteBytes,
	}
	err := lines(r, func(line string) error {
		key, value, _ := strings.Cut(line, ": ")
		where, ok := fields[key]
		if !ok || !base(value, 10, where) {
			return unknown("io", "unknown line %q", line)
		}
		return nil
	})
	return out, err
}

// Cgroup is one line of /proc/PID/cgroup (cgroups(7)).
type Cgroup struct {
	Hierarchy   int
	Controllers string // comma separated; "" for version 2
	Path        string
}

// Cgroups parses the control groups of a process.
func (d Dir) Cgroups() ([]Cgroup, error) { return parse(d, "cgroup", ParseCgroups) }

// ParseCgroups parses "ID:CONTROLLERS:PATH" lines.
func ParseCgroups(r io.Reader) ([]Cgroup, error) {
	var out []Cgroup
	err := lines(r, func(line string) error {
		parts := strings.SplitN(line, ":", 3)
		var c Cgroup
		if len(parts) != 3 || !decimal(parts[0], &c.Hierarchy) {
			return unknown("cgroup", "unknown line %q", line)
		}
		c.Controllers, c.Path = parts[1], parts[2]
		out = append(out, c)
		return nil
	})
	return out, err
}

// Auxv reads the auxiliary vector up to and including AT_NULL, 16 bytes an entry (proc_pid_auxv(5)).
func (d Dir) Auxv() ([]byte, error) { return parse(d, "auxv", ParseAuxv) }

// ParseAuxv returns the vector without what may follow AT_NULL.
func ParseAuxv(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	for i := 0; i+16 <= len(b); i += 16 {
		if binary.LittleEndian.Uint64(b[i:]) == 0 {
			return b[:i+16], nil
		}
	}
	return nil, unknown("auxv", "no AT_NULL in %d bytes", len(b))
}

// Personality reads the execution domain (personality(2)).
func (d Dir) Personality() (uint32, error) { return parse(d, "personality", single[uint32](16)) }

// TimerSlack reads the timer slack of a thread in ns (PR_GET_TIMERSLACK). Only /proc/TID/timerslack_ns exists, not the
// one below task: d must be Pid(tid).
func (d Dir) TimerSlack() (uint64, error) { return parse(d, "timerslack_ns", single[uint64](10)) }

// single returns a parser for a file that holds one unsigned number.
func single[T ~uint32 | ~uint64](radix int) func(io.Reader) (T, error) {
	return func(r io.Reader) (T, error) {
		text, err := oneLine(r)
		if err != nil {
			return 0, err
		}
		var v T
		if !base(text, radix, &v) {
			return 0, unknown("", "%q is not a number", text)
		}
		return v, nil
	}
}

// OOMScoreAdj reads oom_score_adj, -1000 to 1000.
func (d Dir) OOMScoreAdj() (int, error) {
	return parse(d, "oom_score_adj", func(r io.Reader) (int, error) {
		text, err := oneLine(r)
		if err != nil {
			return 0, err
		}
		v, err := strconv.Atoi(text)
		if err != nil || v < -1000 || v > 1000 {
			return 0, unknown("oom_score_adj", "unknown value %q", text)
		}
		return v, nil
	})
}

// AutogroupNice reads autogroup: the nice value of the whole session among all sessions (sched(7)). It is 0 where the
// kernel has no autogroups, or the process is in none.
func (d Dir) AutogroupNice() (int, error) {
	nice, err := parse(d, "autogroup", ParseAutogroup)
	if errors.Is(err, unix.ENOENT) && !errors.Is(err, &fault.Error{Code: fault.TargetGone}) {
		return 0, nil // a kernel without CONFIG_SCHED_AUTOGROUP
	}
	return nice, err
}

// ParseAutogroup parses "/autogroup-69 nice 5"; an empty file stands for none.
func ParseAutogroup(r io.Reader) (int, error) {
	line, err := oneLine(r)
	if err != nil || line == "" {
		return 0, err
	}
	name, value, ok := strings.Cut(line, " nice ")
	nice, err := strconv.Atoi(value)
	if !ok || err != nil || !strings.HasPrefix(name, "/autogroup-") {
		return 0, unknown("autogroup", "unknown line %q", line)
	}
	return nice, nil
}

// CoredumpFilter reads coredump_filter, which mappings a core dump holds (core(5)).
func (d Dir) CoredumpFilter() (uint32, error) {
	return parse(d, "coredump_filter", func(r io.Reader) (uint32, error) {
		text, err := oneLine(r)
		if err != nil {
			return 0, err
		}
		v, err := strconv.ParseUint(text, 16, 32)
		if err != nil {
			return 0, unknown("coredump_filter", "unknown value %q", text)
		}
		return uint32(v), nil
	})
}

// Comm reads the name of a thread, which may hold any byte but NUL.
func (d Dir) Comm() (string, error) { return parse(d, "comm", oneLine) }

// Args reads the command line.
func (d Dir) Args() ([]string, error) {
	b, err := d.Read("cmdline")
	if err != nil || len(b) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00"), nil
}

// Label reads the security label (attr/current), "" if no security module keeps one.
func (d Dir) Label() (string, error) {
	b, err := d.Read("attr/current")
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return "", nil // no module answers
	}
	return strings.TrimRight(string(b), "\x00\n"), err
}

// Namespaces are the kinds of namespace a process is in (namespaces(7)), as links below ns name them.
var Namespaces = [...]string{
	"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children",
	"user", "uts",
}

// NS returns the identity of one namespace, for example "mnt:[4026531832]"; "" if the kernel has no such kind, or the
// thread is ending and has left it.
func (d Dir) NS(kind string) (string, error) {
	s, err := d.Link("ns/" + kind)
	switch {
	case !errors.Is(err, unix.ENOENT):
		return s, err
	case exists(string(d) + "/ns"):
		return "", nil
	}
	// it may have ended after the link was looked for, and before fail looked
	return "", d.fail("ns/"+kind, unix.ENOENT)
}

// Sysctl reads a one-line setting below /proc/sys, named as there: "kernel/pid_max".
func Sysctl(name string) (string, error) {
	return parse(Dir("/proc/sys"), name, oneLine)
}
