package snapshot

import (
	"fmt"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// leaderless lists the sessions and process groups of a tree whose leader has ended and which nobody else is in: nobody
// outside keeps them, so a restore has to make them again. The tree may run; what it made since is its own.
func leaderless(st *model.State) []int {
	tree := st.Tree()
	ids := map[int]bool{}
	for i := range st.Processes {
		for _, id := range []int{st.Processes[i].Sid, st.Processes[i].Pgid} {
			if _, err := procfs.Pid(id).Stat(); id > 0 && !tree[id] && err != nil {
				ids[id] = true
			}
		}
	}
	if len(ids) == 0 {
		return nil // as always, but for daemons and background jobs
	}
	for _, s := range othersThan(tree) {
		delete(ids, s.Session)
		delete(ids, s.Pgrp)
	}
	var list []int
	for id := range ids {
		list = append(list, id)
	}
	slices.Sort(list)
	return list
}

// heldOutside tells of processes outside a tree that are in a session or process group which one of the tree leads:
// while they are there, the kernel does not give that id to a new process.
func heldOutside(st *model.State) []string {
	tree := st.Tree()
	var notes []string
	for _, s := range othersThan(tree) {
		for _, g := range []struct {
			what string
			id   int
		}{{"session", s.Session}, {"process group", s.Pgrp}} {
			if tree[g.id] {
				notes = append(notes, fmt.Sprintf("pid %d (%s), which is not saved, is in %s %d of the tree: while it is, only restore --pidns auto brings the tree back", s.Pid, s.Comm, g.what, g.id))
				break
			}
		}
	}
	slices.Sort(notes)
	return notes
}

// othersThan lists every process that is not in tree and below nobody who is.
func othersThan(tree map[int]bool) []procfs.Stat {
	pids, err := procfs.Pids("/proc")
	if err != nil {
		return nil
	}
	all := map[int]procfs.Stat{}
	for _, pid := range pids {
		if s, err := procfs.Pid(pid).Stat(); err == nil { // else it has ended
			all[pid] = s
		}
	}
	var others []procfs.Stat
	for pid, s := range all {
		inside := false
		for p, n := pid, 0; p > 0 && !inside && n < len(all); p, n = all[p].PPid, n+1 {
			inside = tree[p]
		}
		if !inside {
			others = append(others, s)
		}
	}
	return others
}
