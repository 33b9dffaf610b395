package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

func pidName(pid int) string { return fmt.Sprintf("pid %d", pid) }

func threadName(pid, tid int) string { return fmt.Sprintf("thread %d of pid %d", tid, pid) }

func vmaName(pid int, v *model.VMA) string {
	return fmt.Sprintf("mapping %x-%x of pid %d", v.Start, v.End, pid)
}

// isGone tells whether err says that a process or thread has ended.
func isGone(err error) bool { return errors.Is(err, &fault.Error{Code: fault.TargetGone}) }

// subject returns the process that a fault is about: "fd 3 of pid 12", "thread 13 of pid 12"; 0 if it names none.
func subject(err error) (pid int) {
	var f *fault.Error
	if !errors.As(err, &f) {
		return 0
	}
	if i := strings.LastIndex(f.Object, "pid "); i >= 0 {
		_, _ = fmt.Sscanf(f.Object[i:], "pid %d", &pid) // else it is some other word
	}
	return pid
}

// isZombie tells whether a process has ended and waits for its parent, or is just being removed.
func isZombie(s *procfs.Stat) bool { return s.State == 'Z' || s.State == 'X' }

// findTree returns pid and all its descendants, parents before their children. The list is exact only while the tree is
// stopped: /proc/PID/task/TID/children may miss some of the children of a running process (proc_tid_children(5)).
func findTree(pid int) ([]int, error) {
	tree := []int{pid}
	for i := 0; i < len(tree); i++ {
		children, err := childrenOf(tree[i])
		if err != nil {
			return nil, err
		}
		for _, c := range children {
			if !slices.Contains(tree, c) { // it may move within the tree while we look
				tree = append(tree, c)
			}
		}
	}
	return tree, nil
}

// childrenOf lists the children of all threads of a process, zombies too. CONFIG_PROC_CHILDREN makes the file; a kernel
// without it is refused, since children that are not seen would not be saved.
func childrenOf(pid int) ([]int, error) {
	tids, err := procfs.Pid(pid).Tasks()
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []int
	for _, tid := range tids {
		children, err := procfs.Task(pid, tid).Children()
		switch {
		case isGone(err):
		case errors.Is(err, fs.ErrNotExist):
			return nil, fault.New(fault.NoSource, pidName(pid),
				"this kernel does not list children (CONFIG_PROC_CHILDREN)")
		case err != nil:
			return nil, err
		}
		list = append(list, children...)
	}
	slices.Sort(list)
	return list, nil
}

// members are the processes of a tree: those that can be stopped, those that have ended and wait for their parent, and
// what is to be said of those that are neither, since only their first thread has ended.
type members struct {
	live, zombies []int
	refusals      fault.List
}

func splitMembers(pids []int) (m members, err error) {
	for _, pid := range pids {
		s, err := procfs.Pid(pid).Stat()
		switch {
		case isGone(err): // reaped since the tree was listed
		case err != nil:
			return members{}, err
		case !isZombie(&s):
			m.live = append(m.live, pid)
		default:
			if n := runningThreads(pid); n > 0 {
				m.refusals = append(m.refusals, leaderEnded(pid, n))
			} else {
				m.zombies = append(m.zombies, pid)
			}
		}
	}
	return m, nil
}

// zombieProcess is what is left of a process that has ended.
func zombieProcess(pid int) (model.Process, error) {
	s, err := procfs.Pid(pid).Stat()
	if err != nil {
		return model.Process{}, err
	}
	return model.Process{
		Pid: pid, PPid: s.PPid, Pgid: s.Pgrp, Sid: s.Session,
		ExitSignal: s.ExitSignal, Zombie: true, ExitCode: s.ExitCode, Args: []string{s.Comm},
	}, nil
}
