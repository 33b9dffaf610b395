// Package view is where things are looked at from: a /proc with the pid namespace it is of, the clocks of a time
// namespace, a map of user ids, a tree of files. Whoever resolves a pid, a time or a name does so through a View that
// he was given, so that what is meant in one place is not looked up in another. Today there is one place, that of this
// process (Own); what its own descriptors lead to (/proc/self/fd) is no matter of place.
package view

import (
	"fmt"
	"os"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/timens"
)

// View is a place to look from. It does not change, and may be used by several goroutines.
type View struct {
	Self  int            // pid of this process
	PidNS uint64         // inode of the pid namespace that pids are of (namespaces(7)), 0 if the kernel has none
	Time  timens.Offsets // of the time namespace that times are read in
	ahead int64          // ticks that Time adds to what is read of start times
}

// Own is the view of this process.
func Own() (*View, error) {
	v := &View{Self: os.Getpid()}
	var err error
	if v.PidNS, err = namespace(v.Self); err != nil {
		return nil, err
	}
	if v.Time, err = timens.Of(v.Self); err != nil {
		return nil, err
	}
	v.ahead = ticksAhead(v.Time)
	return v, nil
}

// Mine is the directory of this process below /proc.
func (v *View) Mine() procfs.Dir { return procfs.Pid(v.Self) }

// Level is how deep the pid namespace of this process is nested, counted from the one /proc was mounted in.
func (v *View) Level() (uint32, error) {
	status, err := v.Mine().Status()
	if err != nil {
		return 0, err
	}
	return uint32(max(len(status.NSpid), 1) - 1), nil
}

// InitialIDs reports whether user ids are those of the initial user namespace (user_namespaces(7)).
func (v *View) InitialIDs() (bool, error) {
	text, err := v.Mine().Read("uid_map")
	if err != nil {
		return false, err
	}
	var inside, outside, count uint64
	_, err = fmt.Sscan(string(text), &inside, &outside, &count)
	return err == nil && inside == 0 && outside == 0 && count == 1<<32-1, nil
}

// Boot is the id of this run of the kernel (random(4)): what names processes is of one.
func (*View) Boot() (string, error) { return procfs.Sysctl("kernel/random/boot_id") }
