package view

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/procid"
	"github.com/bpfckpt/bpfckpt/internal/timens"
)

// tick is USER_HZ, in which /proc counts time on every architecture we know (include/asm-generic/param.h).
const tick = int64(time.Second / 100)

// ticksAhead is what the kernel adds to start times: the offset of the reader's namespace before it counts in ticks
// (fs/proc/array.c, do_task_stat). Where that is no whole number of them it is rounded up here, and the start time may
// come out one too few.
func ticksAhead(o timens.Offsets) int64 {
	n := o.Boottime / tick
	if o.Boottime%tick > 0 {
		n++
	}
	return n
}

// Process names the process that has a pid here and now. The fault is E_TARGET_GONE if there is none.
func (v *View) Process(pid int) (procid.ID, error) {
	d := procfs.Pid(pid)
	first, err := d.Stat()
	if err != nil {
		return procid.ID{}, err
	}
	id := v.ID(pid, first.StartTime)
	if id.NS, err = namespace(pid); err != nil {
		return procid.ID{}, err
	}
	status, err := d.Status()
	if err != nil {
		return procid.ID{}, err
	}
	if n := len(status.NSpid); n > 0 { // from that of this /proc to the one it is in
		id.Pid = status.NSpid[n-1]
	}
	last, err := d.Stat()
	if err != nil {
		return procid.ID{}, err
	}
	if last.StartTime != first.StartTime {
		return procid.ID{}, fault.New(fault.TargetGone, fmt.Sprintf("pid %d", pid),
			"it ended, and another process has its pid now")
	}
	return id, nil
}

// ID names a process of this view's pid namespace by its pid and field 22 of its /proc/PID/stat, as it is read here; it
// may have ended since.
func (v *View) ID(pid int, start uint64) procid.ID {
	return procid.ID{NS: v.PidNS, Pid: pid, Start: uint64(int64(start) - v.ahead)}
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

// State is what can be said of a process by its name.
type State int

// The states.
const (
	Unknown State = iota // it is in a pid namespace of which this view sees nothing
	Ended
	Lives // also as a zombie
)

// Census is the processes of the pid namespaces below a view, at one moment.
type Census struct {
	v *View
	// Those in namespaces below the view's own, without their start times: the pids they have here. nil before they are
	// looked for.
	inside map[procid.ID]int
	seen   map[uint64]bool // those namespaces
}

// Census returns one that is taken when it is first needed.
func (v *View) Census() *Census { return &Census{v: v} }

// Find tells whether a process lives, and which pid it has here.
func (c *Census) Find(id procid.ID) (pid int, s State) {
	if id.NS == c.v.PidNS {
		return id.Pid, c.v.state(id.Pid, id)
	}
	if c.inside == nil {
		c.take()
	}
	if pid, ok := c.inside[procid.ID{NS: id.NS, Pid: id.Pid}]; ok {
		return pid, c.v.state(pid, id)
	}
	if c.seen[id.NS] || c.v.PidNS == procid.Initial {
		return 0, Ended
	}
	return 0, Unknown
}

// state tells whether the process that has a pid here is the one that is meant.
func (v *View) state(pid int, id procid.ID) State {
	is, err := v.Process(pid)
	switch {
	case err == nil && is.Is(id):
		return Lives
	case err == nil || errors.Is(err, &fault.Error{Code: fault.TargetGone}):
		return Ended
	}
	return Unknown
}

// take lists the processes in namespaces below the view's own.
func (c *Census) take() {
	c.inside, c.seen = map[procid.ID]int{}, map[uint64]bool{}
	pids, err := procfs.Pids("/proc")
	if err != nil {
		return
	}
	for _, pid := range pids {
		ns, err := namespace(pid)
		if err != nil || ns == c.v.PidNS || ns == 0 {
			continue
		}
		id, err := c.v.Process(pid)
		if err != nil {
			continue
		}
		c.inside[procid.ID{NS: id.NS, Pid: id.Pid}], c.seen[id.NS] = pid, true
	}
}
