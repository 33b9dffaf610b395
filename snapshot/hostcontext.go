package snapshot

import (
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/timens"
	"github.com/bpfckpt/bpfckpt/internal/view"
)

// hostContext is what a process must have in common with this one to be saved from here and brought back from here.
type hostContext struct {
	ns    [len(procfs.Namespaces)]string // ours
	label string                         // ours
	view  *view.View
	tree  timens.Offsets // of the tree's
}

// readHostContext reads ours. The time namespace is the tree's own affair, if it is one for all of it: a restore makes
// it again.
func readHostContext(v *view.View, root int) (*hostContext, error) {
	s := &hostContext{view: v}
	self := v.Mine()
	var err error
	for i, kind := range procfs.Namespaces {
		from := self
		if kind == "time" || kind == "time_for_children" {
			from, kind = procfs.Pid(root), "time"
		}
		if s.ns[i], err = from.NS(kind); err != nil {
			return nil, err
		}
	}
	if s.label, err = self.Label(); err != nil {
		return nil, err
	}
	s.tree, err = timens.Of(root)
	return s, err
}

// blockers compares the threads of a process with ours, but for the kinds of namespaces in told. A thread that ends
// meanwhile is no blocker.
func (s *hostContext) blockers(pid int, tids []int, told []string) fault.List {
	var list fault.List
	for i, kind := range procfs.Namespaces {
		if slices.Contains(told, kind) {
			continue
		}
		for _, tid := range tids {
			ns, err := procfs.Task(pid, tid).NS(kind)
			if err == nil && (ns == s.ns[i] || ns == "") || isGone(err) {
				continue // a thread that is ending has none any more
			}
			list = append(list, namespaceFault(pid, tid, kind, err))
			break // one thread says enough of this namespace
		}
	}
	label, err := procfs.Pid(pid).Label()
	if err == nil && label != s.label {
		list = append(list, fault.New(fault.Label, pidName(pid), "its label is %q, ours is %q", label, s.label))
	}
	return list
}

func namespaceFault(pid, tid int, name string, err error) *fault.Error {
	if err != nil {
		return fault.New(fault.Namespace, threadName(pid, tid), "its %s namespace cannot be read: %w", name, err)
	}
	return fault.New(fault.Namespace, threadName(pid, tid), "its %s namespace is not that of bpfckpt", name)
}

// What kcmp(2) compares.
const (
	kcmpVM      = 1
	kcmpFiles   = 2
	kcmpFS      = 3
	kcmpSighand = 4
	kcmpSysVSem = 6
)

// kcmp compares a kernel object of two tasks: 0 if it is the same, 1 or 2 for an order, 3 for none (kcmp(2),
// CONFIG_KCMP).
func kcmp(a, b, what int) (int, error) {
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), uintptr(what), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// sharedObjects are what a process of its own has for itself, and its threads have in common.
var sharedObjects = []struct {
	what         int
	name         string
	amongThreads bool // threads can be without it (CLONE_THREAD implies the others)
}{
	{kcmpVM, "memory", false},
	{kcmpFiles, "descriptors", true},
	{kcmpFS, "directories and umask", true},
	{kcmpSighand, "signal handlers", false},
}

// sharingAmong finds processes that share what only threads share: what vfork(2) and clone(2) with CLONE_VM and its
// like make. Equal objects are neighbours in kcmp's order.
func sharingAmong(pids []int) fault.List {
	var list fault.List
	for _, o := range sharedObjects {
		sorted := slices.Clone(pids)
		slices.SortFunc(sorted, func(a, b int) int {
			switch r, err := kcmp(a, b, o.what); {
			case err != nil:
				return 0 // one has ended: sharing is seen only between live ones
			case r == 1:
				return -1
			default:
				return r
			}
		})
		for i := 1; i < len(sorted); i++ {
			if r, err := kcmp(sorted[i-1], sorted[i], o.what); err == nil && r == 0 {
				a, b := min(sorted[i-1], sorted[i]), max(sorted[i-1], sorted[i])
				list = append(list, fault.New(fault.Shared, pidName(b), "it shares its %s with pid %d", o.name, a))
			}
		}
	}
	return list
}

// sharingWithin finds threads of one process that do not share what threads share.
func sharingWithin(pid int, tids []int) fault.List {
	var list fault.List
	for _, o := range sharedObjects {
		if !o.amongThreads {
			continue
		}
		for _, tid := range tids {
			if r, err := kcmp(pid, tid, o.what); err == nil && r != 0 {
				list = append(list, fault.New(fault.Shared, threadName(pid, tid), "it has other %s than thread %d",
					o.name, pid))
				break
			}
		}
	}
	return list
}

// frozenBlockers looks again, at the stopped tree, at what outsideBlockers found in order, as far as the source does
// not.
func (s *hostContext) frozenBlockers(tells kstate.Facts, pids []int) fault.List {
	var list fault.List
	if !tells.Sharing {
		list = append(sharingAmong(withParent(pids)), undoBlockers(pids)...)
	}
	for _, pid := range pids {
		tids := []int{pid}
		if !tells.Sharing {
			if all, err := procfs.Pid(pid).Tasks(); err == nil {
				tids = all
				list = append(list, sharingWithin(pid, tids)...)
			}
		}
		list = append(list, s.blockers(pid, tids, tells.Namespaces)...)
	}
	return list
}

// undoBlockers lists processes that may have semaphore operations to undo.
func undoBlockers(pids []int) fault.List {
	var list fault.List
	for _, pid := range pids {
		if tids, err := procfs.Pid(pid).Tasks(); err == nil && mayUndo(tids) {
			list = append(list, fault.New(fault.ProcessState, pidName(pid),
				"it may have SysV semaphore operations to undo (SEM_UNDO)").
				WithRemedy("use semop without SEM_UNDO, or POSIX semaphores"))
		}
	}
	return list
}

// kthreadd is the parent of the kernel's threads, in the first pid namespace: a task that never had a list of semaphore
// undos.
const kthreadd = 2

// mayUndo tells whether a thread may have semaphore operations to undo. One without a list has none, and where there is
// no semaphore there is nothing to undo; but threads that share a list (CLONE_SYSVSEM, as pthread_create does) get one
// that is empty, and nothing but the kernel's memory tells whether it still is.
func mayUndo(tids []int) bool {
	sets, err := os.ReadFile("/proc/sysvipc/sem")
	if err != nil || !operated(string(sets)) {
		return false
	}
	for _, tid := range tids {
		if r, err := kcmp(kthreadd, tid, kcmpSysVSem); err != nil || r != 0 {
			return true
		}
	}
	return false
}

// operated tells whether anybody has ever done a semop(2) on a set of semaphores that exists: only then is there
// something to undo. text is /proc/sysvipc/sem: a heading, then a line for each set, whose ninth field is the time of
// the last operation (proc_sysvipc(5)).
func operated(text string) bool {
	for i, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		const otime = 8
		if f := strings.Fields(line); i > 0 && (len(f) <= otime || f[otime] != "0") {
			return true
		}
	}
	return false
}

// tracedThreads names the tracer of each process that has one; asked only while nobody is stopped by us.
func tracedThreads(pid int, tids []int) fault.List {
	for _, tid := range tids {
		status, err := procfs.Task(pid, tid).Status()
		if err != nil || status.TracerPid == 0 {
			continue
		}
		name := "?"
		if s, err := procfs.Pid(status.TracerPid).Stat(); err == nil {
			name = s.Comm
		}
		return fault.List{fault.New(fault.Traced, pidName(pid), "pid %d (%s) traces it", status.TracerPid, name)}
	}
	return nil
}

// outsideBlockers lists what /proc and kcmp(2) tell of running processes that keeps them from being saved. A source
// tells much of it again under the freeze; here it is found before anything is stopped.
func (s *hostContext) outsideBlockers(pids []int) fault.List {
	list := sharingAmong(withParent(pids))
	for _, pid := range pids {
		tids, err := procfs.Pid(pid).Tasks()
		if err != nil {
			continue // it ended, or the freeze will say
		}
		list = append(list, s.blockers(pid, tids, nil)...)
		list = append(list, sharingWithin(pid, tids)...)
		list = append(list, tracedThreads(pid, tids)...)
	}
	return list
}

// withParent adds the parent of the root, the first of pids: it may be waiting for the root in vfork(2).
func withParent(pids []int) []int {
	if len(pids) > 0 {
		if s, err := procfs.Pid(pids[0]).Stat(); err == nil && s.PPid > 0 {
			return append(slices.Clone(pids), s.PPid)
		}
	}
	return pids
}

// How long a vfork child may take to call execve.
const (
	settleRounds = 25
	settlePause  = 4 * time.Millisecond
)

// settledBlockers is outsideBlockers, but waits a little for what passes: a child that has just been made by
// posix_spawn or vfork(2) shares its parent's memory, and the parent cannot be stopped, until the child calls execve.
func (s *hostContext) settledBlockers(pids []int) fault.List {
	list := s.outsideBlockers(pids)
	for range settleRounds {
		if !slices.ContainsFunc(list, func(e *fault.Error) bool { return e.Code == fault.Shared }) {
			break
		}
		time.Sleep(settlePause)
		before := list
		// Of a program that starts many there is always one: it is in the way only if it stays.
		list = slices.DeleteFunc(s.outsideBlockers(pids), func(e *fault.Error) bool {
			return e.Code == fault.Shared &&
				!slices.ContainsFunc(before, func(b *fault.Error) bool { return b.Error() == e.Error() })
		})
	}
	return list
}
