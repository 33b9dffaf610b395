package main

import (
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/cmdline"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/job"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

func runVerb() *verb {
	return &verb{
		name: "run", operands: "-- CMD [ARGUMENT...]", min: 1, max: -1, commandLine: true,
		short: "run a command that can be stopped and gone on with",
		long: "Starts the command; Ctrl-C (or SIGTERM, SIGHUP) saves it into the directory DIR and stops it. The same command line again\n" +
			"goes on where it stopped. Once the command has ended by itself, with whatever exit status, the next run starts it\n" +
			"afresh; the images stay in DIR, where inspect and restore find them. If a signal killed it (a crash, kill -9, out of\n" +
			"memory), the next run goes on from the last image.\n\n" +
			"What goes on has the standard streams of this run, not those of the one before. A file that > empties is made\n" +
			"complete again: what the command had written to it is kept in DIR/streams. Input from a file goes on where it was,\n" +
			"and is not ended by a terminal or /dev/null in its place.\n\n" +
			"With --every it is also saved while it runs, so that a crash of the machine costs no more than that; auto chooses the interval from\n" +
			"what a snapshot turns out to cost and from --mtbf.\n\n" +
			"If it cannot be saved it runs on, so that nothing is lost; a second Ctrl-C ends it without a snapshot. What would be in\n" +
			"the way is told a few seconds after the start.\n\n" +
			"The command runs in the background of the terminal, so that Ctrl-C reaches bpfckpt. If it reads from the terminal it\n" +
			"gets the foreground; then Ctrl-C is its own, and `kill` or `bpfckpt snap` saves it. Besides the standard streams it\n" +
			"inherits open files and directories; pipes and sockets that bpfckpt itself inherited are not passed on, since they could\n" +
			"not be saved.",
		flags: append([]cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "save into `DIR`, a store of images (default: ckpt- and the base name of CMD)"},
			pidnsFlag(), filesFlag(),
		}, periodicFlags()...),
		examples: []example{
			{"bpfckpt run -- ./simulate --steps 1000000", "Ctrl-C, and the same line again goes on"},
			{"bpfckpt run --dir /data/job1 -- python3 train.py", "images go to another place"},
			{"bpfckpt run --every 5m --keep 3 -- ./simulate", "also every five minutes; the three newest images stay"},
		},
		exitNote:   "The exit status of CMD, or 128 plus the number of the signal that killed it; 130 if it was\nsaved and stopped. Before it runs:",
		exits:      []fault.Class{fault.Failed, fault.KernelLacks, fault.BadImage, fault.RolledBack, fault.Interrupted},
		ownSignals: true,
		ownStatus:  true,
		run:        runCommand,
	}
}

// runJSON is what run prints with --json at its end.
type runJSON struct {
	Dir         string           `json:"dir"`
	ResumedFrom string           `json:"resumed_from"` // id of an image, "" if the command was started afresh
	Pid         int              `json:"pid"`
	Saved       *snapshot.Result `json:"saved"` // null if it ended by itself
	Exit        int              `json:"exit"`
}

func runCommand(c *call) error {
	dir := c.cli.String("dir")
	if dir == "" {
		dir = "ckpt-" + filepath.Base(c.args[0])
	}
	saves, err := c.periodic()
	if err != nil {
		return err
	}
	pol, err := c.policy()
	if err != nil {
		return err
	}
	j, err := job.Start(c.ctx, job.Options{
		Dir: dir, Args: c.args, PidNS: c.cli.String("pidns"), Policy: pol, Saves: saves,
		Observer: &runTeller{c, dir},
	})
	if err != nil {
		return err
	}
	defer j.Close()
	end, err := j.Wait()
	if err != nil {
		return err
	}
	code := int(fault.Interrupted)
	if end.Saved == nil {
		code = job.ExitCode(end.Status)
	}
	if c.json {
		if err := c.object(runJSON{dir, end.Resumed, end.Pid, end.Saved, code}); err != nil {
			return err
		}
	}
	return status(code)
}

// runTeller tells the user what happens to the command of run. It is the job.Observer.
type runTeller struct {
	*call
	dir string
}

func (t *runTeller) Note(text string) { t.note("%s", text) }

func (t *runTeller) Resumed(from image.Info) {
	t.say("going on from %s@%s, saved %s", t.dir, imageName(from.Name, from.ID), from.Taken().Format(time.DateTime))
}

func (t *runTeller) Foreseen(pid int, blockers fault.List) {
	const some = 3
	for i, e := range blockers {
		if i == some {
			t.note("there are %d more, see `bpfckpt check %d`", len(blockers)-some, pid)
			return
		}
		t.note("as it is now the command could not be saved: %s", e.Error())
	}
}

func (t *runTeller) GaveTerminal() {
	t.say("the command reads from the terminal, so Ctrl-C is its own now; `kill %d` saves and stops it", os.Getpid())
}

func (t *runTeller) Saving() (progress func(done, total int64), finish func()) {
	return t.bar("saving")
}

func (t *runTeller) Saved(r *snapshot.Result) {
	t.note("saved %s@%s (%s); go on with: %s", t.dir, imageName(r.Name, r.ID), microsText(r.WallUS), t.again())
}

func (t *runTeller) NotSaved(err error) {
	for _, e := range fault.Of(err) {
		t.note("%s", e.Error())
	}
	t.note("%s", fault.New(fault.SnapAtSignal, t.args[0], "it could not be saved, and runs on").Error())
}

func (t *runTeller) Interval(why string) { t.say("%s is saved %s", t.args[0], why) }

func (t *runTeller) PeriodicFailed(err error) {
	for _, e := range fault.Of(err) {
		t.note("a periodic snapshot: %s", e.Error())
	}
}

func (t *runTeller) Ended(ws unix.WaitStatus, head string) {
	switch {
	case ws.Signaled():
		t.note("killed by %s; the same command goes on from %s@%s: %s", unix.SignalName(ws.Signal()), t.dir, head,
			t.again())
	case ws.ExitStatus() != 0:
		t.say("ended with status %d; the same command starts afresh, `bpfckpt restore %s` goes back to its last image", ws.ExitStatus(), t.dir)
	}
}

// again is the command line that goes on.
func (t *runTeller) again() string {
	line := "bpfckpt run"
	if dir := t.cli.String("dir"); dir != "" {
		line += " --dir " + cmdline.Quote(dir)
	}
	line += " --"
	for _, a := range t.args {
		line += " " + cmdline.Quote(a)
	}
	return line
}
