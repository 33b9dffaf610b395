package job

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/agent"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

// save is what SIGINT, SIGTERM and SIGHUP do: snapshot, kill, end. If the snapshot fails the command runs on.
func (j *Job) save(sig unix.Signal) (over bool, err error) {
	if j.refused {
		j.place.send(sig)
		return false, nil
	}
	j.hurry()
	res, err := j.snap()
	if err == nil {
		j.saved = res
		j.keepStreams()
		j.remember(runNote{Streams: j.streams, Args: j.Args, Image: res.ID})
		j.Observer.Saved(res)
		return true, j.reap()
	}
	if agent.Gone(err, j.place.root) {
		return false, nil
	}
	j.refused = true
	for _, sig := range j.place.later {
		if sig == unix.SIGUSR1 || sig == unix.SIGUSR2 || sig == unix.SIGQUIT || sig == unix.SIGWINCH {
			j.place.send(sig)
		}
	}
	j.place.later = nil
	j.Observer.NotSaved(err)
	return false, nil
}

// echo is how soon after the signal that asked for a snapshot another one is the same request, not a change of mind.
const echo = 3 * time.Second

// snap takes the snapshot; another signal meanwhile cancels it, but for an echo.
func (j *Job) snap() (res *snapshot.Result, err error) {
	progress, finish := j.Observer.Saving()
	defer finish()
	err = j.place.during(j.ctx, echo, func(ctx context.Context) (err error) {
		o := snapshot.Options{Dir: j.Dir, Kill: true, Progress: progress, Precopy: true}
		if j.Saves != nil {
			o.Incremental, o.Compress, o.Exclude = true, j.Saves.Options.Compress, j.Saves.Options.Exclude
		}
		res, err = j.snapper.Snap(ctx, o)
		return err
	})
	return res, err
}

// saveNow takes one periodic snapshot. A signal that ends it is seen to by whoever called.
func (j *Job) saveNow() {
	var o agent.Outcome
	_ = j.place.during(j.ctx, 0, func(ctx context.Context) error { // the error is in o
		o = j.Saves.Once(ctx, j.snapper)
		return nil
	})
	j.timer.Reset(j.Saves.Next())
	if o.Result != nil {
		j.keepStreams()
		j.remember(runNote{Streams: j.streams, Args: j.Args, Image: o.Result.ID})
	}
	if o.Why != "" {
		j.Observer.Interval(o.Why)
	}
	before := j.failure
	j.failure = ""
	if o.Err == nil || canceled(o.Err) || agent.Gone(o.Err, j.place.root) {
		return
	}
	if j.failure = o.Err.Error(); j.failure != before { // else it was told
		j.Observer.PeriodicFailed(o.Err)
	}
}

// canceled reports whether a snapshot was given up because its context ended.
func canceled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, &fault.Error{Code: fault.Interrupt})
}

// reap waits for the killed root, so that its id is free when we end.
func (j *Job) reap() error {
	_, err := WaitChild(j.place.root)
	if errors.Is(err, unix.ECHILD) && j.place.foreign != nil {
		_, err = j.place.foreign(j.ctx)
	}
	if err != nil {
		return fault.New(fault.Internal, pidName(j.place.root), "wait for the killed process: %w", err)
	}
	return nil
}

// ended records that the command ended: if by itself, its image is no point to go on from any more.
func (j *Job) ended(ws unix.WaitStatus) {
	head, err := headOf(j.Dir)
	if err != nil {
		return // no image, or none that could be gone on from
	}
	if !ws.Signaled() {
		j.forgetStreams()
		j.remember(runNote{Args: j.Args, Image: head, Finished: true})
	}
	j.Observer.Ended(ws, head)
}

// remember writes the note; a failure is worth a line, but no more: the images tell nearly as much.
func (j *Job) remember(n runNote) {
	if err := writeNote(j.Dir, n); err != nil {
		j.Observer.Note(fault.New(fault.RunStore, j.Dir, "write the note: %w", err).Error())
	}
}

// headOf returns the id of the newest image of a store.
func headOf(dir string) (string, error) {
	r, err := image.Open(dir)
	if err != nil {
		return "", err
	}
	defer r.Close()
	return r.Info().ID, nil
}
