// Package restore brings an image back: the same processes and threads with the same ids, memory, descriptors, signals
// and timers.
//
// A restore has two halves. The plan (plan.go) is a pure function of the image: the order in which processes are made
// and where in each there is room for our code. The execution drives new processes with ptrace. Each starts as the stub
// of internal/stub, made by clone3(2) with set_tid so that it has its old id; batches of system calls run inside it and
// turn it, piece by piece, into the process of the image. Until the very last step every one of them is killed by the
// kernel when we end, so a restore that fails, or is killed, leaves nothing behind.
//
// The parts and where they are:
//
//	plan.go      order, free addresses                    ids.go       are all ids free, who has them
//	clock.go     clocks that go on after a reboot
//	births.go    who makes whom, sessions, groups         create.go    the same, done
//	process.go   the stub, zombies, the end of all        remote.go    batches of system calls inside a process
//	space.go     address space: mappings, vDSO, brk       memory.go    page contents
//	lazy.go      page contents that come later
//	files.go     mapped files, descriptors                objects.go   shared memory and nameless files
//	threads.go   threads, per-thread state                creds.go     ids, capabilities, seccomp
//	signals.go   handlers, pending signals, timers        resume.go    last registers, restart of system calls, release
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
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// Error is a fault: code, object, cause and remedy. Every error of this package that a user can meet is one.
type Error = fault.Error

// How Options.PidNS treats ids that are taken.
const (
	PidNSNever  = "never"  // refuse and name the occupant
	PidNSAuto   = "auto"   // use a new pid namespace if an id is taken
	PidNSAlways = "always" // always use a new pid namespace
)

// How Options.Files treats a file that the image's processes write to and that was changed after the snapshot.
const (
	FilesNote   = "note"   // take it as it is, and say so in Result.Notes
	FilesVerify = "verify" // refuse, unless it has merely grown by appending and is cut back
)

// Given tells what a standard stream was that a program was started with.
type Given = fdtable.Given

// Options says how to restore.
type Options struct {
	Detach  bool        // the process outlives us: no terminal, no standard streams of ours
	Stopped bool        // leave every process stopped by SIGSTOP
	PidNS   string      // PidNSNever (also ""), PidNSAuto or PidNSAlways
	Std     [3]*os.File // what standard streams that led outside are attached to; nil means closed
	// what the streams were that the program was started with: what is one of them becomes that of Std
	Given [3]*Given
	Files string // FilesNote (also "") or FilesVerify

	// Lazy is a server of the same image, which brings memory after the processes run; nil: all memory is there before.
	// Restore ends it if it fails.
	Lazy *lazy.Client

	// FailStep makes step number FailStep, counted from 1, fail: the test of the rollback. 0 means none.
	FailStep int
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

// phases of a restore, in order.
const (
	phasePlan     = "plan"
	phaseCreate   = "create"
	phaseFiles    = "files"
	phaseSpace    = "space"
	phaseMemory   = "memory"
	phaseThreads  = "threads"
	phaseFinalise = "finalise"
	phaseRelease  = "release"
)

// restorer is one restore under way. It runs on one goroutine; the tracing thread belongs to it.
type restorer struct {
	ctx  context.Context
	j    *journal
	img  *image.Reader
	st   *model.State
	o    Options
	plan *plan.Plan

	actions map[plan.Op]action

	tree        *tree
	handover    *handover
	bequests    *bequests
	descriptors *descriptors
	mapped      *mappedFiles
	spaces      *spaces
	memory      *memory
	later       *laterPages // nil if there is no server
	content     content
	objects     *objects
	named       *namedFiles
	clocks      *clocks

	phases map[string]int64
	phase  string
	since  time.Time
}

// Restore brings the tree of an image back and lets it run. It needs CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN) and
// CAP_SYS_PTRACE. On error nothing is left: no process, no file, no mount; the error is a *Error of class
// fault.RolledBack, or the one that ctx gave. When ctx ends after Restore has returned, nothing happens to the
// processes.
func Restore(ctx context.Context, img *image.Reader, o Options) (*Result, error) {
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

func newRestorer(ctx context.Context, img *image.Reader, o Options) *restorer {
	r := &restorer{
		ctx: ctx, j: &journal{ctx: ctx, fail: o.FailStep}, img: img, st: workingState(img.State()), o: o, actions: actions(),
		phases: map[string]int64{},
	}
	r.content = content{ctx: ctx, img: img}
	r.objects = &objects{j: r.j, content: r.content, st: r.st, temps: map[int]*os.File{}}
	r.named = &namedFiles{j: r.j, content: r.content, st: r.st}
	r.clocks = &clocks{kernel: &r.st.Kernel}
	r.handover = &handover{j: r.j}
	r.mapped = newMappedFiles(r.j, r.st, r.objects, r.handover)
	r.descriptors = &descriptors{j: r.j, img: img, st: r.st, handover: r.handover, o: fdtable.RebuildOptions{
		Moment: r.clocks.moment,
		Std:    o.Std, Detach: o.Detach, Given: o.Given, Verify: o.Files == FilesVerify,
		Shmem: func(i int) (*os.File, error) { return r.objects.shmems[i], nil },
		Ghost: func(i int) (*os.File, error) { return r.objects.ghosts[i], nil },
		Temp:  func(i int) (*os.File, error) { return r.objects.temps[i], nil },
	}}
	if o.Lazy != nil {
		r.later = &laterPages{j: r.j, content: r.content, server: o.Lazy, plans: map[*process]*lazyPlan{}}
	}
	return r
}

func restoreOnce(ctx context.Context, img *image.Reader, o Options) (*Result, error) {
	r := newRestorer(ctx, img, o)
	start := time.Now()
	res, err := r.run()
	if err != nil {
		r.j.rollback()
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

func (r *restorer) run() (*Result, error) {
	r.enter(phasePlan)
	if err := r.decide(); err != nil {
		return nil, err
	}
	r.j.notes = append(r.j.notes, r.plan.Notes...)
	if len(r.plan.Refusals) > 0 {
		return nil, r.plan.Refusals
	}
	pidNS, err := chooseIDs(r.j, r.o.PidNS, wantedIDs(r.plan.Births, r.st))
	if err != nil {
		return nil, err
	}
	r.bequests = &bequests{j: r.j, content: r.content, heritage: r.plan.Forked, unshared: map[int]bool{}}
	r.tree = &tree{
		j: r.j, st: r.st, births: r.plan.Births, handover: r.handover, bequests: r.bequests,
		stub: &stubProcess{j: r.j, pidNS: pidNS, detach: r.o.Detach},
	}
	r.spaces = &spaces{st: r.st, boot: r.plan.Boot, bequests: r.bequests, objects: r.objects, mapped: r.mapped}
	r.memory = &memory{content: r.content, bequests: r.bequests, later: r.later}
	if err := r.raiseOwn(); err != nil {
		return nil, err
	}
	for _, s := range r.plan.Steps {
		if err := r.execute(s); err != nil {
			return nil, err
		}
	}
	r.enter("")
	return r.result(), nil
}

// Plan tells what Restore would do with the same options, and everything that stands in the way. It makes nothing.
func Plan(ctx context.Context, img *image.Reader, o Options) (*plan.Plan, error) {
	r := newRestorer(ctx, img, o)
	defer r.j.close()
	if err := r.decide(); err != nil {
		return nil, asRestoreFault(err)
	}
	p := r.plan
	refusals, notes := r.descriptors.rebuilder().Check()
	p.Refusals, p.Notes = append(p.Refusals, refusals...), append(p.Notes, notes...)
	if len(p.Steps) == 0 {
		return p, nil // without births it is not known which ids are needed
	}
	_, err := chooseIDs(r.j, r.o.PidNS, wantedIDs(r.plan.Births, r.st))
	p.Notes = append(p.Notes, r.j.notes...)
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
func (r *restorer) decide() error {
	pol := plan.Policy{Side: plan.Restore, Detach: r.o.Detach, Lazy: r.o.Lazy != nil}
	if !pol.Lazy { // what comes page by page comes to each
		pol.Same = r.img.Same
	}
	h, err := host.Read(r.st, pol)
	if err != nil {
		return err
	}
	if err := host.Look(r.st, h); err != nil {
		return err
	}
	h.Streams = host.Streams(r.o.Std)
	r.plan = plan.Build(r.st, h, pol)
	if skipped := r.img.Skipped(); len(skipped) > 0 {
		r.plan.Notes = append(r.plan.Notes, "a later version has written records of the image that were skipped: "+
			strings.Join(skipped, ", "))
	}
	if len(r.plan.Refusals) > 0 {
		return nil
	}
	return arch.Require(arch.Stub, arch.InterruptedCalls)
}

// enter ends the phase under way and begins another; time in a phase that is entered twice adds up.
func (r *restorer) enter(phase string) {
	now := time.Now()
	if r.phase != "" {
		r.phases[r.phase] += now.Sub(r.since).Microseconds()
	}
	r.phase, r.since = phase, now
}

func (r *restorer) result() *Result {
	res := &Result{
		Root: r.tree.procs[0].pid, Pids: map[int]int{}, PidNS: r.tree.stub.pidNS, Phases: r.phases, Notes: r.j.notes, Steps: r.j.steps,
		waiter: waiter{root: r.tree.procs[0].pid, parent: r.tree.stub.parent},
	}
	if r.later != nil {
		res.Lazy = r.later.res
	}
	for _, p := range r.tree.procs {
		res.Pids[p.rec.Pid] = p.pid
		for i, th := range p.threads {
			res.Pids[p.rec.Threads[i].Tid] = th.Tid
		}
	}
	return res
}
