// Package procid names processes so that the name means one process only, whoever reads it: the pid namespace a process
// is in, its pid there and its start time. What this machine keeps of processes in files (watches, records of earlier
// lives) goes by that name, since such files are seen from several namespaces when their directory is shared, and
// outlive pids.
//
// The name is the same from inside and from outside of a container, and in every time namespace but for rounding: see
// ID.Near.
package procid

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/timens"
)

// ID is the name of a process. No two processes of one boot have the same: a pid is used again much later than a clock
// tick.
type ID struct {
	NS    uint64 // inode of the pid namespace it is in (namespaces(7)), 0 if the kernel has none
	Pid   int    // its pid in that namespace
	Start uint64 // when it started, clock ticks since boot in the initial time namespace
}

// tick is USER_HZ, in which /proc counts time on every architecture we know (include/asm-generic/param.h).
const tick = int64(time.Second / 100)

// Of names the process that has a pid here and now. The fault is E_TARGET_GONE if there is none.
func Of(pid int) (ID, error) {
	d := procfs.Pid(pid)
	first, err := d.Stat()
	if err != nil {
		return ID{}, err
	}
	here, err := Here()
	if err != nil {
		return ID{}, err
	}
	id := here.ID(pid, first.StartTime)
	if id.NS, err = namespace(pid); err != nil {
		return ID{}, err
	}
	status, err := d.Status()
	if err != nil {
		return ID{}, err
	}
	if n := len(status.NSpid); n > 0 { // from that of this /proc to the one it is in
		id.Pid = status.NSpid[n-1]
	}
	last, err := d.Stat()
	if err != nil {
		return ID{}, err
	}
	if last.StartTime != first.StartTime {
		return ID{}, fault.New(fault.TargetGone, fmt.Sprintf("pid %d", pid),
			"it ended, and another process has its pid now")
	}
	return id, nil
}

// Place is where this process looks from.
type Place struct {
	NS    uint64 // inode of our own pid namespace
	ahead int64  // ticks that our time namespace adds to what we read of start times
}

// Here is where we are.
func Here() (Place, error) {
	ns, err := namespace(os.Getpid())
	if err != nil {
		return Place{}, err
	}
	own, err := timens.Of(os.Getpid())
	if err != nil {
		return Place{}, err
	}
	// The kernel adds the offset of the reader's namespace before it counts in ticks (fs/proc/array.c, do_task_stat).
	// Where that is no whole number of them it is rounded up here, and the start time may come out one too few.
	p := Place{NS: ns, ahead: own.Boottime / tick}
	if own.Boottime%tick > 0 {
		p.ahead++
	}
	return p, nil
}

// ID names a process of our own pid namespace by its pid and field 22 of its /proc/PID/stat, as we read it; it may have
// ended since.
func (p Place) ID(pid int, start uint64) ID {
	return ID{NS: p.NS, Pid: pid, Start: uint64(int64(start) - p.ahead)}
}

// namespace returns the inode of the pid namespace that a process is in.
func namespace(pid int) (uint64, error) {
	text, err := procfs.Pid(pid).NS("pid")
	if err != nil || text == "" {
		return 0, err
	}
	number, ok := strings.CutPrefix(strings.TrimSuffix(text, "]"), "pid:[")
	ns, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil {
		return 0, fault.New(fault.ProcFormat, fmt.Sprintf("pid %d", pid), "its pid namespace is %q", text)
	}
	return ns, nil
}

// String is the name as files carry it: NAMESPACE-PID-START.
func (id ID) String() string { return fmt.Sprintf("%d-%d-%d", id.NS, id.Pid, id.Start) }

// Parse reads what String writes.
func Parse(text string) (id ID, ok bool) {
	var start string
	ns, rest, ok1 := strings.Cut(text, "-")
	pid, start, ok2 := strings.Cut(rest, "-")
	var err error
	if id.NS, err = strconv.ParseUint(ns, 10, 64); err != nil || !ok1 || !ok2 {
		return ID{}, false
	}
	if id.Pid, err = strconv.Atoi(pid); err != nil {
		return ID{}, false
	}
	if id.Start, err = strconv.ParseUint(start, 10, 64); err != nil {
		return ID{}, false
	}
	return id, id.String() == text
}

// Near lists the names that others may have for the process: those who read its start time in another time namespace
// may have got one tick more or less. The own name comes first. No other process has one of them: its pid would have
// been used again within two ticks.
func (id ID) Near() []ID {
	less, more := id, id
	less.Start--
	more.Start++
	return []ID{id, less, more}
}

// Is reports whether two names are of the same process.
func (id ID) Is(o ID) bool {
	d := int64(id.Start - o.Start)
	return id.NS == o.NS && id.Pid == o.Pid && -1 <= d && d <= 1
}

// State is what can be said of a process by its name.
type State int

// The states.
const (
	Unknown State = iota // it is in a pid namespace of which we see nothing
	Ended
	Lives // also as a zombie
)

// View is what is to be seen of pid namespaces from here, at one moment.
type View struct {
	here Place
	// Processes in namespaces below our own, without their start times: the pids they have here. nil before they are
	// looked for.
	inside map[ID]int
	seen   map[uint64]bool // those namespaces
}

// Look returns a view.
func Look() (*View, error) {
	here, err := Here()
	return &View{here: here}, err
}

// Find tells whether a process lives, and which pid it has here.
func (v *View) Find(id ID) (pid int, s State) {
	if id.NS == v.here.NS {
		return id.Pid, state(id.Pid, id)
	}
	if v.inside == nil {
		v.look()
	}
	if pid, ok := v.inside[ID{NS: id.NS, Pid: id.Pid}]; ok {
		return pid, state(pid, id)
	}
	if v.seen[id.NS] || v.here.NS == Initial {
		return 0, Ended
	}
	return 0, Unknown
}

// Initial is the inode of the first pid namespace, from which all are seen: PROC_PID_INIT_INO
// (include/linux/proc_ns.h).
const Initial = 0xEFFFFFFC

// state tells whether the process that has a pid here is the one that is meant.
func state(pid int, id ID) State {
	is, err := Of(pid)
	switch {
	case err == nil && is.Is(id):
		return Lives
	case err == nil || errors.Is(err, &fault.Error{Code: fault.TargetGone}):
		return Ended
	}
	return Unknown
}

// look lists the processes in namespaces below our own.
func (v *View) look() {
	v.inside, v.seen = map[ID]int{}, map[uint64]bool{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			continue
		}
		ns, err := namespace(pid)
		if err != nil || ns == v.here.NS || ns == 0 {
			continue
		}
		id, err := Of(pid)
		if err != nil {
			continue
		}
		v.inside[ID{NS: id.NS, Pid: id.Pid}], v.seen[id.NS] = pid, true
	}
}

// Boot is the id of this run of the kernel (random(4)): names are of one.
func Boot() (string, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fault.New(fault.ProcRead, path, "%w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
