// Package restore brings an image back: the same processes and threads with the same ids, memory, descriptors, signals
// and timers.
//
// A restore has two halves. The plan (package plan) is a pure function of the image: the order in which processes are
// made, where in each there is room for our code, and the steps. The execution (execute.go) does the steps. Each thing
// that they make is a type of its own, with what it needs of the others as its fields; steps.go has them all, and which
// of them does which step. Whatever they do is counted and taken back by the journal.
//
// New processes are driven with ptrace. Each starts as the stub of internal/stub, made by clone3(2) with set_tid so
// that it has its old id; batches of system calls run inside it and turn it, piece by piece, into the process of the
// image. Until the very last step every one of them is killed by the kernel when we end, so a restore that fails, or is
// killed, leaves nothing behind.
//
//	journal      what is done, and takes it back          clocks       of the tree, which go on after a reboot
//	objects      shared memory and nameless files         namedFiles   memory by a name
//	mappedFiles  what is mapped and executed              descriptors  what is open, and who has it
//	stubProcess  from which all are made                  tree         who makes whom (create.go), release
//	bequests     memory that they are born with           handover     the socket for descriptors of ours
//	process      one of them: its batches (remote.go), threads, credentials, limits, end
//	spaces       mappings, vDSO, brk                      memory       page contents
//	laterPages   page contents that come later            attributes   directories, handlers, flags
//	terminals    who has which                            timers       with the time that was left
//	signals      pending ones, stops                      finisher     last registers, restart of system calls
package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/internal/collector"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/host"
	"github.com/bpfckpt/bpfckpt/internal/lazy"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
	"github.com/bpfckpt/bpfckpt/policy"
)

// Error is a fault: code, object, cause and remedy. Every error of this package that a user can meet is one.
type Error = fault.Error

// How Options.PidNS treats ids that are taken.
const (
	PidNSNever  = "never"  // refuse and name the occupant
	PidNSAuto   = "auto"   // use a new pid namespace if an id is taken
	PidNSAlways = "always" // always use a new pid namespace
)

// Given tells what a standard stream was that a program was started with.
type Given = fdtable.Given

// Options says how to restore.
type Options struct {
	Detach  bool        // the process outlives us: no terminal, no standard streams of ours (policy.Shorthand)
	Stopped bool        // leave every process stopped by SIGSTOP
	PidNS   string      // PidNSNever (also ""), PidNSAuto or PidNSAlways
	Std     [3]*os.File // what standard streams that led outside are attached to; nil means closed
	// what the streams were that the program was started with: what is one of them becomes that of Std
	Given  [3]*Given
	Policy policy.Policy // what becomes of what the image does not hold; Detach chooses for streams and terminals

	// Lazy is a server of the same image, which brings memory after the processes run; nil: all memory is there before.
	// Restore ends it if it fails.
	Lazy *lazy.Client

	// FailStep makes step number FailStep, counted from 1, fail: the test of the rollback. 0 means none.
	FailStep int
}

// policy returns the policy that the options come to. The error is fault.BadOption.
func (o Options) policy() (policy.Policy, error) {
	if o.Detach {
		return o.Policy.With("--detach")
	}
	return o.Policy, o.Policy.Valid()
}

// Result is a restore that succeeded: the processes run.
type Result struct {
	Root      int              // pid of the root process as we see it
	Pids      map[int]int      // id in the image -> id as we see it, every process and thread
	PidNS     bool             // the processes are in a pid namespace of their own
	RestoreUS int64            // from the call to the release of the last thread, microseconds
	Phases    map[string]int64 // microseconds
	Notes     []string         // what the user should know, one line each
	Steps     int              // how many steps there were, for FailStep
	Lazy      *Lazy            // with Options.Lazy

	waiter waiter
}

// Restore brings the tree of an image back and lets it run. It needs CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN) and
// CAP_SYS_PTRACE. On error nothing is left: no process, no file, no mount; the error is a *Error of class
// fault.RolledBack, or the one that ctx gave. When ctx ends after Restore has returned, nothing happens to the
// processes.
func Restore(ctx context.Context, img *image.Reader, o Options) (*Result, error) {
	var err error
	if o.Policy, err = o.policy(); err != nil {
		return nil, err
	}
	defer collector.Relax()()
	return again(ctx, func() (*Result, error) { return restoreOnce(ctx, img, o) })
}

// How often a restore is tried, and how long after the first failure again, after the second twice as long.
const (
	idAttempts = 6
	idPause    = 20 * time.Millisecond
)

// again repeats a restore that found an id taken by nobody. The kernel gives the ids of a process back a moment after
// whoever waited for its end has been told of that (Linux 6.15 and later); until then it has them, and neither /proc
// nor kill(2) shows anybody. What was made is gone by then.
func again(ctx context.Context, once func() (*Result, error)) (*Result, error) {
	for attempt := 1; ; attempt++ {
		res, err := once()
		if err == nil || attempt == idAttempts || !errors.Is(err, &fault.Error{Code: fault.PidTaken}) ||
			!errors.Is(err, unix.EEXIST) {
			return res, err
		}
		select {
		case <-ctx.Done():
			return res, err
		case <-time.After(time.Duration(attempt) * idPause):
		}
	}
}

func restoreOnce(ctx context.Context, img *image.Reader, o Options) (*Result, error) {
	j := &journal{ctx: ctx, fail: o.FailStep}
	start := time.Now()
	res, err := run(j, img, o)
	if err != nil {
		j.rollback()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("restore: %w", ctx.Err())
		}
		return nil, asRestoreFault(err)
	}
	res.RestoreUS = time.Since(start).Microseconds()
	return res, nil
}

// asRestoreFault gives an error without a code that of a failed step, and keeps the others.
func asRestoreFault(err error) error {
	var f *fault.Error
	if errors.As(err, &f) && f.Code != fault.Ptrace && f.Code != fault.TargetGone {
		return err
	}
	return fault.New(fault.RestoreStep, "restore", "%w", err)
}

func run(j *journal, img *image.Reader, o Options) (*Result, error) {
	times := newStopwatch()
	times.enter(phasePlan)
	v, err := view.Own()
	if err != nil {
		return nil, err
	}
	st := workingState(img.State())
	p, err := decide(v, img, st, o)
	if err != nil {
		return nil, err
	}
	j.notes = append(j.notes, p.Notes...)
	if len(p.Refusals) > 0 {
		return nil, p.Refusals
	}
	pidNS, err := chooseIDs(j, o.PidNS, wantedIDs(p.Births, st))
	if err != nil {
		return nil, err
	}
	if err := raiseOwn(j); err != nil {
		return nil, err
	}
	m := newMade(j, v, img, st, o, p, pidNS)
	if err := execute(p.Steps, m.actions(j, st, img.Info().ID), times); err != nil {
		return nil, err
	}
	times.enter("")
	return result(j, m, times.phases), nil
}

// Plan tells what Restore would do with the same options, and everything that stands in the way. It makes nothing.
func Plan(ctx context.Context, img *image.Reader, o Options) (*plan.Plan, error) {
	var err error
	if o.Policy, err = o.policy(); err != nil {
		return nil, err
	}
	j := &journal{ctx: ctx}
	defer j.close()
	v, err := view.Own()
	if err != nil {
		return nil, err
	}
	st := workingState(img.State())
	p, err := decide(v, img, st, o)
	if err != nil {
		return nil, asRestoreFault(err)
	}
	d := &descriptors{j: j, img: img, st: st, o: rebuildOptions(o)}
	refusals, notes := d.rebuilder().Check()
	p.Refusals, p.Notes = append(p.Refusals, refusals...), append(p.Notes, notes...)
	if len(p.Steps) == 0 {
		return p, nil // without births it is not known which ids are needed
	}
	_, err = chooseIDs(j, o.PidNS, wantedIDs(p.Births, st))
	p.Notes = append(p.Notes, j.notes...)
	var taken *fault.Error
	switch {
	case errors.As(err, &taken):
		p.Refusals = append(p.Refusals, taken)
	case err != nil:
		return nil, err
	}
	if len(p.Refusals) > 0 {
		p.Steps = nil
	}
	return p, nil
}

// decide asks the plan whether the image can be brought back here. Nothing has been made yet.
func decide(v *view.View, img *image.Reader, st *model.State, o Options) (*plan.Plan, error) {
	pol := plan.Options{Side: plan.Restore, Policy: o.Policy, Lazy: o.Lazy != nil}
	if !pol.Lazy { // what comes page by page comes to each
		pol.Same = img.Same
	}
	h, err := host.Read(v, st, pol)
	if err != nil {
		return nil, err
	}
	if err := host.Look(v, st, h); err != nil {
		return nil, err
	}
	h.Streams = host.Streams(o.Std)
	p := plan.Build(st, h, pol)
	if skipped := img.Skipped(); len(skipped) > 0 {
		p.Notes = append(p.Notes, "a later version has written records of the image that were skipped: "+
			strings.Join(skipped, ", "))
	}
	if len(p.Refusals) > 0 {
		return p, nil
	}
	return p, arch.Require(arch.Stub, arch.InterruptedCalls)
}

func result(j *journal, m *made, phases map[string]int64) *Result {
	root := m.tree.procs[0]
	res := &Result{
		Root: root.pid, Pids: map[int]int{}, PidNS: m.tree.stub.pidNS, Phases: phases, Notes: j.notes, Steps: j.steps,
		waiter: waiter{root: root.pid, parent: m.tree.stub.parent},
	}
	if m.later != nil {
		res.Lazy = m.later.res
	}
	for _, p := range m.tree.procs {
		res.Pids[p.rec.Pid] = p.pid
		for i, th := range p.threads {
			res.Pids[p.rec.Threads[i].Tid] = th.Tid
		}
	}
	return res
}
