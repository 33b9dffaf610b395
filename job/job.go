// Package job runs a command so that it can be stopped and gone on with.
//
// Start runs a command in a directory that is also the store of its images, or goes on from the newest one there, and
// stands in its place in the foreground (Foreground): signals go on to it, stops and the end come back, and SIGINT,
// SIGTERM and SIGHUP save and end it. It also saves it now and then if that is wanted (agent.Periodic), has its
// critical sections watched, and keeps what it wrote to its standard streams, so that nothing of it is lost when the
// next run begins. What the user is told of all that is the affair of an Observer.
//
// Restore and Foreground are of use without a job too: the processes of any image, brought back in the foreground.
package job

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/agent"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/policy"
	"github.com/bpfckpt/bpfckpt/restore"
	"github.com/bpfckpt/bpfckpt/snapshot"
	"github.com/bpfckpt/bpfckpt/tracer"
)

// Options says how a command is run.
type Options struct {
	Dir      string          // the store
	Args     []string        // the command line; the command is looked for in PATH
	PidNS    string          // of the restore that goes on, as in restore.Options
	Policy   policy.Policy   // of the restore that goes on
	Saves    *agent.Periodic // also save it now and then, into Dir; nil: only at a signal
	Observer Observer
}

// Observer is told what happens to a job, by the goroutine that called Start and Wait, but for Foreseen, which may be
// called by another one at the same time.
type Observer interface {
	// Note is a remark for the user.
	Note(text string)
	// Resumed: the command goes on from an image.
	Resumed(from image.Info)
	// Foreseen: a few seconds after the start these, if any, would keep the command, process pid, from being saved.
	Foreseen(pid int, blockers fault.List)
	// GaveTerminal: the command reads from the terminal and has it now, so that Ctrl-C is its own. Told once.
	GaveTerminal()
	// Saving: the snapshot at a signal begins. progress is called with bytes and may be nil, finish when it is over.
	Saving() (progress func(done, total int64), finish func())
	// Saved: that snapshot is published, and the command has been killed.
	Saved(r *snapshot.Result)
	// NotSaved: that snapshot failed, and the command runs on; another signal goes to the command.
	NotSaved(err error)
	// Interval: from now on it is saved at another interval; why is a phrase that says which and what for.
	Interval(why string)
	// PeriodicFailed: a periodic snapshot failed, otherwise than the one before.
	PeriodicFailed(err error)
	// Ended: the command has ended, by itself or by a signal that was not for us. head is the newest image of the
	// store; it is not told of without one.
	Ended(status unix.WaitStatus, head string)
}

// Job is a command that runs. Its methods are called by the goroutine that called Start.
type Job struct {
	Options // what it was started with, and stays
	ctx     context.Context
	undo    []func()
	lock    *runLock
	place   *Foreground
	streams streams          // what of ours the command has as its standard streams
	resumed string           // id of the image it went on from
	saved   *snapshot.Result // by the signal that ended it
	refused bool             // a snapshot at a signal failed: the next signal goes to the command
	hurry   func()           // ends foresee
	watcher *tracer.Watcher  // nil unless the command marks critical sections
	snapper *agent.Snapper
	timer   *time.Timer // of the next periodic snapshot
	failure string      // of the last periodic snapshot, "" if it was taken
}

// Start runs the command, or goes on with it. Faults are RunStore if the directory cannot be used or another job uses
// it, OtherCommand if the image there is of another command line, StartCommand, and those of packages image and
// restore. Close must follow if there is none.
func Start(ctx context.Context, o Options) (*Job, error) {
	j := &Job{Options: o, ctx: ctx, hurry: func() {}}
	if err := j.begin(); err != nil {
		j.Close()
		return nil, err
	}
	return j, nil
}

func (j *Job) begin() (err error) {
	j.undo = append(j.undo, func() { j.hurry() })
	if j.lock, err = lockRun(j.Dir); err != nil {
		return err
	}
	j.undo = append(j.undo, j.lock.release)
	j.place = newForeground()
	j.place.onStop, j.place.onGive = j.save, j.gave
	j.undo = append(j.undo, j.place.Close)
	if err := j.resumeOrStart(); err != nil {
		return err
	}
	j.undo = append(j.undo, j.unwatch)
	j.snapper = agent.NewSnapper(j.place.root, agent.SnapperOptions{Live: j.live(), Late: j.watchLate})
	j.undo = append(j.undo, j.snapper.Close)
	if j.Saves != nil {
		j.Saves.Options.Dir = j.Dir
		j.timer = time.NewTimer(j.Saves.Next())
		j.place.tick, j.place.onTick = j.timer.C, j.saveNow
	}
	return nil
}

// Close gives back what the job held. A command that still runs is left to itself.
func (j *Job) Close() {
	for _, undo := range slices.Backward(j.undo) {
		undo()
	}
	j.undo = nil
}

// End is how a job ended.
type End struct {
	Pid     int              // of the root of its tree
	Resumed string           // id of the image it went on from, "" if it was started afresh
	Saved   *snapshot.Result // at the signal that ended it, nil if it ended otherwise
	Status  unix.WaitStatus  // of the root, unless it was saved
}

// Wait stands in the place of the command until it ends, or has been saved and killed.
func (j *Job) Wait() (End, error) {
	ws, err := j.place.stay()
	if err != nil {
		return End{}, err
	}
	if j.saved == nil {
		j.ended(ws)
	}
	return End{Pid: j.place.root, Resumed: j.resumed, Saved: j.saved, Status: ws}, nil
}

// resumeOrStart resumes the command from the head of the store, or starts it.
func (j *Job) resumeOrStart() error {
	r, had, err := resumePoint(j.Dir, j.Args)
	if err != nil {
		return err
	}
	if r == nil {
		j.streams = ownStreamFiles()
		return j.start()
	}
	defer r.Close()
	o := restore.Options{PidNS: j.PidNS, Policy: j.Policy, Std: OwnStreams()}
	j.streams, o.Given = had.replaced(j.Dir)
	tree, err := j.place.Restore(j.ctx, r, o)
	if err != nil {
		return err
	}
	for _, n := range tree.Notes {
		j.Observer.Note(n)
	}
	if marksRegions(fmt.Sprintf("/proc/%d/exe", tree.Root)) {
		j.watch(tree.Root, false)
	}
	j.resumed, j.place.root, j.place.foreign = tree.Info.ID, tree.Root, tree.Wait
	j.Observer.Resumed(tree.Info)
	return nil
}

func pidName(pid int) string { return fmt.Sprintf("pid %d", pid) }
