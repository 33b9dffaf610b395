// Package procid names processes so that the name means one process only, whoever reads it: the pid namespace a process
// is in, its pid there and its start time. What this machine keeps of processes in files (watches, records of earlier
// lives) goes by that name, since such files are seen from several namespaces when their directory is shared, and
// outlive pids.
//
// The name is the same from inside and from outside of a container, and in every time namespace but for rounding: see
// ID.Near. Package view gives it.
package procid

import (
	"fmt"
	"strconv"
	"strings"
)

// ID is the name of a process. No two processes of one boot have the same: a pid is used again much later than a clock
// tick.
type ID struct {
	NS    uint64 // inode of the pid namespace it is in (namespaces(7)), 0 if the kernel has none
	Pid   int    // its pid in that namespace
	Start uint64 // when it started, clock ticks since boot in the initial time namespace
}

// Initial is the inode of the first pid namespace, from which all are seen: PROC_PID_INIT_INO
// (include/linux/proc_ns.h).
const Initial = 0xEFFFFFFC

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
