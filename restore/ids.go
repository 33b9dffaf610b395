package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// zombieGrace is how long a taken id may stay taken by a dead process: an init that reaps only now and then holds it
// for a while.
const zombieGrace = 5 * time.Second

// occupant is what has an id that the image needs.
type occupant struct {
	id    int
	role  string // "process", "thread", "process group", "session"
	pid   int    // a process to name
	comm  string
	state string // as in /proc/PID/stat

	ending bool // it has been killed, or is on its way out
}

func (o occupant) dead() bool { return o.ending || o.state == "Z" || o.state == "X" }

func (o occupant) fault() error {
	who := fmt.Sprintf("taken by a %s", o.role)
	switch {
	case o.pid == o.id:
		who = fmt.Sprintf("taken by %s %q, state %s", o.role, o.comm, o.state)
	case o.pid != 0:
		who = fmt.Sprintf("taken by a %s of pid %d %q", o.role, o.pid, o.comm)
	}
	return fault.New(fault.PidTaken, fmt.Sprintf("id %d", o.id), "%s", who)
}

// chooseIDs decides whether the ids that are wanted can be used here or a new pid namespace is needed. choice is
// Options.PidNS.
func chooseIDs(j *journal, choice string, want map[int]bool) (pidNS bool, err error) {
	switch choice {
	case PidNSAlways:
		return true, nil
	case PidNSNever, "", PidNSAuto:
	default:
		return false, fault.New(fault.RestoreState, "pid namespace", "unknown choice %q", choice)
	}
	taken, err := awaitFreeIDs(j.ctx, want)
	if err != nil {
		return false, err
	}
	if len(taken) == 0 {
		return false, nil
	}
	if choice == PidNSAuto {
		j.note("id %d is taken by %q: restored in a pid namespace of its own",
			taken[0].id, taken[0].comm)
		return true, nil
	}
	return false, taken[0].fault()
}

// awaitFreeIDs returns who has ids that are wanted, after giving dead occupants time to go.
func awaitFreeIDs(ctx context.Context, want map[int]bool) ([]occupant, error) {
	end := time.Now().Add(zombieGrace)
	for {
		taken, err := occupants(want)
		if err != nil || len(taken) == 0 {
			return nil, err
		}
		living := slices.IndexFunc(taken, func(o occupant) bool { return !o.dead() })
		if living >= 0 {
			return taken[living:], nil
		}
		if time.Now().After(end) {
			return taken, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// wantedIDs returns every process and thread id of the image, and those of its sessions and groups that have no leader.
func wantedIDs(births *plan.Births, st *model.State) map[int]bool {
	want := map[int]bool{}
	for _, id := range births.IDs() {
		want[id] = true
	}
	for i := range st.Processes {
		rec := &st.Processes[i]
		want[rec.Pid] = true
		for j := range rec.Threads {
			want[rec.Threads[j].Tid] = true
		}
	}
	return want
}

// occupants returns who has one of the ids as process, thread, process group or session: each of these keeps the kernel
// from giving the id to a new process.
func occupants(want map[int]bool) ([]occupant, error) {
	var taken []occupant
	for id := range want {
		if o, ok := lookup(id); ok {
			taken = append(taken, o)
		}
	}
	if len(taken) > 0 {
		slices.SortFunc(taken, func(a, b occupant) int { return a.id - b.id })
		return taken, nil
	}
	pids, err := procfs.Pids("/proc")
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		f, ok := statFields(pid)
		if !ok {
			continue
		}
		for _, g := range []struct {
			role  string
			field string
		}{{"process group", f[2]}, {"session", f[3]}} {
			if id, err := strconv.Atoi(g.field); err == nil && want[id] {
				taken = append(taken, occupant{
					id: id, role: g.role, pid: pid, comm: comm(pid), state: f[0], ending: ending(pid, f),
				})
			}
		}
	}
	return taken, nil
}

// lookup finds the process or thread with an id.
func lookup(id int) (occupant, bool) {
	f, ok := statFields(id) // /proc/TID exists for threads too
	if !ok {
		return occupant{}, false
	}
	o := occupant{id: id, role: "process", pid: id, comm: comm(id), state: f[0], ending: ending(id, f)}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", id, id)); errors.Is(err, os.ErrNotExist) {
		return occupant{}, false
	}
	if tgid := tgidOf(id); tgid != 0 && tgid != id {
		o.role, o.pid, o.comm = "thread", tgid, comm(tgid)
	}
	return o, true
}

// ending tells of a process or thread that somebody has killed, or that is on its way out: of much memory that takes a
// while. f is what statFields returned of it.
func ending(pid int, f []string) bool {
	const exiting = 4 // PF_EXITING, include/linux/sched.h
	if flags, err := strconv.ParseUint(f[6], 10, 64); err == nil && flags&exiting != 0 {
		return true
	}
	status, err := procfs.Pid(pid).Status()
	return err == nil && (status.SigPnd|status.ShdPnd)&(1<<(unix.SIGKILL-1)) != 0
}

// statFields returns the fields of /proc/PID/stat from the state on (proc_pid_stat(5)): state, ppid, pgrp, session, ...
func statFields(pid int) ([]string, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, false
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	if i := strings.LastIndex(string(b), ") "); i >= 0 { // the command's name may hold parentheses
		rest = string(b)[i+2:]
	}
	f := strings.Fields(rest)
	return f, ok && len(f) > 20
}

func comm(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "?"
	}
	return strings.TrimSuffix(string(b), "\n")
}

func tgidOf(tid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Tgid:"); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(v)) // the kernel prints a number
			return n
		}
	}
	return 0
}
