// Package proc is the kernel state source "proc": /proc, system calls that take the id of a process or thread, and, of
// stopped threads only, queries made from inside them (package ptrace, Injector). It is for kernels without BPF
// iterators and for users who may not load BPF programs; what it returns is what the iterator source returns, and a
// test compares the two field by field.
//
// What a running process is asked for disturbs it in no way: nothing is injected then, and the fields that only its own
// threads can ask for stay zero (kstate.Source).
package proc

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// Source is the source "proc". It holds nothing in the kernel.
type Source struct {
	host host
}

var _ kstate.Source = (*Source)(nil)

// New looks at what this machine offers. Faults: NoSource if the kernel lacks kcmp(2) (CONFIG_KCMP), without which
// shared descriptors cannot be told apart.
func New() (*Source, error) {
	h, err := readHost()
	if err != nil {
		return nil, err
	}
	return &Source{host: *h}, nil
}

// Name returns "proc".
func (*Source) Name() string { return "proc" }

// Tells implements kstate.Source.
func (*Source) Tells() kstate.Facts { return kstate.Facts{} }

// Close does nothing.
func (*Source) Close() error { return nil }

// Collect reads the state of the given thread groups; see kstate.Source.
func (s *Source) Collect(ctx context.Context, pids []int, g *ptrace.Group) (*kstate.Collected, error) {
	c := collection{host: &s.host, g: g, parents: map[int]int{}}
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p, err := c.process(pid)
		if err != nil {
			return nil, err
		}
		c.out.Processes = append(c.out.Processes, *p)
	}
	for i := range c.out.Processes {
		p := &c.out.Processes[i]
		p.Continued = slices.Contains(c.continued, p.Pid)
		p.ParentTid = c.parents[p.Pid]
	}
	if err := c.files(); err != nil {
		return nil, err
	}
	return &c.out, nil
}

// collection is one Collect under way.
type collection struct {
	host *host
	g    *ptrace.Group // nil: the processes run
	out  kstate.Collected
	open []openFile   // descriptors of all processes so far
	maps []procfs.Map // of the process at hand
	// children that were continued, which their parents do not know yet
	continued []int
	parents   map[int]int // of children of a thread other than the first, by pid
}

func (c *collection) block(code fault.Code, object, format string, args ...any) {
	c.out.Blockers = append(c.out.Blockers, fault.New(code, object, format, args...))
}

func pidName(pid int) string { return fmt.Sprintf("pid %d", pid) }

func threadName(pid, tid int) string { return fmt.Sprintf("thread %d of pid %d", tid, pid) }

// process reads one thread group.
func (c *collection) process(pid int) (*model.Process, error) {
	dir := procfs.Pid(pid)
	stat, err := dir.Stat()
	if err != nil {
		return nil, err
	}
	if stat.Flags&procfs.PFKThread != 0 {
		return nil, fault.New(fault.KernelThread, pidName(pid), "it is %q", stat.Comm)
	}
	p := &model.Process{
		Pid: pid, PPid: stat.PPid, Pgid: stat.Pgrp, Sid: stat.Session, ExitSignal: stat.ExitSignal, TTY: stat.TTY,
	}
	tids, err := dir.Tasks()
	if err != nil {
		return nil, err
	}
	if stat.State == 'Z' && len(tids) == 1 {
		p.Zombie, p.ExitCode = true, stat.ExitCode
		return p, nil
	}
	for _, f := range []func() error{
		func() error { return c.places(dir, p) },
		func() error { return c.limits(dir, p) },
		func() error { return c.mappings(dir, p, &stat) },
		func() error { return c.descriptors(dir, p) },
		func() error { return c.threads(p, tids) },
		func() error { return c.inside(p) },
		func() error { return c.usage(p, &stat) },
	} {
		if err := f(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// places reads the links and texts.
func (c *collection) places(dir procfs.Dir, p *model.Process) (err error) {
	if p.Cwd, err = dir.Link("cwd"); err != nil {
		return err
	}
	if p.Root, err = dir.Link("root"); err != nil {
		return err
	}
	if p.Args, err = dir.Args(); err != nil {
		return err
	}
	if p.Exe, err = identity(dir, "exe"); err != nil {
		return err
	}
	if p.OOMScoreAdj, err = dir.OOMScoreAdj(); err != nil {
		return err
	}
	if p.MM.CoredumpFilter, err = dir.CoredumpFilter(); err != nil {
		return err
	}
	p.MM.Auxv, err = dir.Auxv()
	return err
}

// limits reads what status and limits tell of a whole process.
func (c *collection) limits(dir procfs.Dir, p *model.Process) error {
	status, err := dir.Status()
	if err != nil {
		return err
	}
	p.Umask = status.Umask
	p.PendingSet = status.ShdPnd
	p.MM.THPDisable = !status.THPEnabled
	limits, err := dir.Limits()
	if err != nil {
		return err
	}
	for i, l := range limits {
		p.Limits[i] = model.Limit{Cur: l.Soft, Max: l.Hard}
	}
	return nil
}

// ticksPerSecond is USER_HZ, in which /proc counts time on every architecture we know (include/asm-generic/param.h).
const ticksPerSecond = 100

// usage completes the resource usage. What a stopped process was asked for from inside is exact; the rest, and
// everything of a running one, comes in ticks from /proc.
func (c *collection) usage(p *model.Process, stat *procfs.Stat) error {
	const tick = 1e9 / ticksPerSecond
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return fault.New(fault.ProcRead, "CLOCK_BOOTTIME", "%w", err)
	}
	p.Usage.Wall = now.Nano() - int64(stat.StartTime)*tick
	if c.g != nil {
		return nil
	}
	io, err := procfs.Pid(p.Pid).IO()
	if err != nil {
		return err
	}
	p.Usage.UTime, p.Usage.STime = int64(stat.UTime)*tick, int64(stat.STime)*tick
	p.Usage.MinFlt, p.Usage.MajFlt = stat.MinFlt, stat.MajFlt
	p.Usage.InBlock, p.Usage.OuBlock = io.ReadBytes/512, io.WriteBytes/512
	p.ChildUsage.UTime, p.ChildUsage.STime = int64(stat.CUTime)*tick, int64(stat.CSTime)*tick
	p.ChildUsage.MinFlt, p.ChildUsage.MajFlt = stat.CMinFlt, stat.CMajFlt
	return nil
}
