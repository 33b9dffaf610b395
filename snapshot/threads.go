package snapshot

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/sigs"
	"github.com/bpfckpt/bpfckpt/model"
)

// told is what ptrace tells of a stopped thread and no other source knows.
type told struct {
	th       *ptrace.Thread
	regs     []byte
	xstate   []byte
	mask     uint64
	pending  []model.SigInfo
	shared   []model.SigInfo // of the process; read from its first thread only
	rseq     model.Rseq
	sud      model.SUD
	wait     *model.Restart // the call with a timeout that it goes on with, nil if it is in none
	blockers fault.List
}

// readThreads asks ptrace about every thread of a group, in one visit to the tracing thread.
func readThreads(g *ptrace.Group) ([]told, error) {
	threads := g.Threads()
	all := make([]told, len(threads))
	scratch := make([]byte, 0, xstateRoom)
	err := g.Tracer().Do(func() error {
		for i, th := range threads {
			first := i == 0 || threads[i-1].Pid != th.Pid
			if err := all[i].read(th, first, scratch); err != nil {
				return err
			}
			if left, room, ok := g.Wait(th); ok {
				all[i].wait = &model.Restart{Kind: model.RestartWait, Left: max(left, 0), Addr: room, Exact: true}
			}
		}
		return nil
	})
	return all, err
}

// xstateRoom is what ptrace.Thread.XState asks of a buffer.
const xstateRoom = 16 << 10

func (t *told) read(th *ptrace.Thread, first bool, scratch []byte) error {
	t.th = th
	regs, err := th.Regs()
	if err != nil {
		return err
	}
	t.regs = bytes.Clone(regs.Bytes())
	xstate, err := th.XState(scratch)
	if err != nil {
		return err
	}
	t.xstate = bytes.Clone(xstate)
	if t.mask, err = th.SigMask(); err != nil {
		return err
	}
	if t.pending, err = pending(th, false); err != nil {
		return err
	}
	if first {
		if t.shared, err = pending(th, true); err != nil {
			return err
		}
	}
	rseq, err := th.Rseq()
	if err != nil {
		return err
	}
	t.rseq = model.Rseq{Ptr: rseq.Ptr, Size: rseq.Size, Sig: rseq.Sig}
	sud, err := th.SUD()
	if err != nil && !errors.Is(err, unix.EIO) { // Linux before 6.4 cannot tell
		return err
	}
	t.sud = model.SUD{Mode: sud.Mode, Selector: sud.Selector, Offset: sud.Offset, Len: sud.Len}
	return t.readHardware()
}

func (t *told) readHardware() error {
	for _, q := range []struct {
		ask  func() (bool, error)
		what string
	}{
		{t.th.HardwareBreakpoints, "it has hardware breakpoints in its debug registers"},
		{t.th.IOPorts, "it has access to I/O ports (ioperm)"},
	} {
		yes, err := q.ask()
		if err != nil {
			return err
		}
		if yes {
			t.blockers = append(t.blockers, fault.New(fault.ThreadState, threadName(t.th.Pid, t.th.Tid), "%s", q.what))
		}
	}
	return nil
}

func pending(th *ptrace.Thread, shared bool) ([]model.SigInfo, error) {
	infos, err := th.Pending(shared)
	if err != nil {
		return nil, err
	}
	list := make([]model.SigInfo, len(infos))
	for i, info := range infos {
		list[i] = info
	}
	return list, nil
}

// timersRanOut tells whether signals have become pending since all was read: to a process, or to a thread that a timer is
// for.
func timersRanOut(group *ptrace.Group, processes []model.Process, all []told) (news bool, err error) {
	targets := map[int]bool{}
	for i := range processes {
		for _, t := range processes[i].Timers {
			targets[t.Tid] = true
		}
	}
	err = group.Tracer().Do(func() error {
		for i := range all {
			t := &all[i]
			if i == 0 || all[i-1].th.Pid != t.th.Pid {
				now, err := pending(t.th, true)
				if err != nil {
					return err
				}
				news = news || len(now) != len(t.shared)
			}
			if targets[t.th.Tid] {
				now, err := pending(t.th, false)
				if err != nil {
					return err
				}
				news = news || len(now) != len(t.pending)
			}
		}
		return nil
	})
	return news, err
}

// mergeThreads puts what ptrace told into the processes of a source. Both must know the same threads.
func mergeThreads(processes []model.Process, all []told) (fault.List, error) {
	byTid := make(map[int]*told, len(all))
	for i := range all {
		byTid[all[i].th.Tid] = &all[i]
	}
	var list fault.List
	for i := range processes {
		p := &processes[i]
		if p.Zombie {
			continue
		}
		for j := range p.Threads {
			th := &p.Threads[j]
			t := byTid[th.Tid]
			if t == nil || t.th.Pid != p.Pid {
				return nil, fault.New(fault.TreeMoves, threadName(p.Pid, th.Tid),
					"it appeared while the tree was stopped")
			}
			delete(byTid, th.Tid)
			if j == 0 {
				p.Pending, p.Stopped = sigs.Complete(t.shared, p.PendingSet), t.th.JobStop
				if err := stopTold(p); err != nil {
					return nil, err
				}
			}
			if t.wait != nil {
				th.Restart = t.wait
			}
			t.pending = sigs.Complete(t.pending, th.PendingSet)
			th.Regs, th.XState, th.SigMask, th.Pending, th.Rseq, th.SUD = t.regs, t.xstate, t.mask, t.pending, t.rseq,
				t.sud
			list = append(list, t.blockers...)
			if th.Seccomp.Mode == seccompFilter {
				if err := readFilters(t.th, th); err != nil {
					return nil, err
				}
			}
		}
	}
	for i := range processes {
		expired(&processes[i])
	}
	for tid, t := range byTid {
		return nil, fault.New(fault.TreeMoves, threadName(t.th.Pid, tid), "it ended while the tree was stopped")
	}
	return list, nil
}

// stopTold finds out whether the parent of a stopped process has waited for the stop. While a group is stopped the
// kernel keeps what it will tell the parent where the exit status will be, and clears it when it has
// (wait_task_stopped, kernel/exit.c; do_task_stat, fs/proc/array.c).
func stopTold(p *model.Process) error {
	if p.Stopped == 0 {
		return nil
	}
	s, err := procfs.Pid(p.Pid).Stat()
	p.StopTold = err == nil && s.ExitCode == 0
	return err
}

const seccompFilter = 2 // SECCOMP_MODE_FILTER

func readFilters(from *ptrace.Thread, th *model.Thread) error {
	progs, flags, err := from.SeccompFilters()
	if err != nil {
		return fmt.Errorf("seccomp filters: %w", err)
	}
	th.Seccomp.Filters = make([]model.SeccompFilter, len(progs))
	for i := range progs {
		th.Seccomp.Filters[i] = model.SeccompFilter{Prog: progs[i], Flags: flags[i]}
	}
	return nil
}
