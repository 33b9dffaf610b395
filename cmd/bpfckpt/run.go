package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/agent"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/restore"
	"github.com/bpfckpt/bpfckpt/snapshot"
	"github.com/bpfckpt/bpfckpt/tracer"
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

// session is one use of run.
type session struct {
	*call
	dir     string
	lock    *runLock
	job     *job
	streams streams          // what of ours the command has as its standard streams
	resumed string           // id of the image it went on from
	saved   *snapshot.Result // by the signal that ended it
	refused bool             // a snapshot at a signal failed: the next signal goes to the command
	hurry   func()           // ends foresee
	watcher *tracer.Watcher  // nil unless the command marks regions
	snapper *agent.Snapper
	saving  *agent.Periodic // nil without --every
	timer   *time.Timer     // of the next periodic snapshot
	failure string          // of the last periodic snapshot, "" if it was taken
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
	s := &session{call: c, dir: c.cli.String("dir"), hurry: func() {}}
	defer func() { s.hurry() }()
	if s.dir == "" {
		s.dir = "ckpt-" + filepath.Base(c.args[0])
	}
	var err error
	if s.saving, err = c.periodic(); err != nil {
		return err
	}
	lock, err := lockRun(s.dir)
	if err != nil {
		return err
	}
	defer lock.release()
	s.lock = lock
	s.job = &job{tty: openTerminal(), onStop: s.save, onGive: s.gave}
	defer s.job.tty.close()
	s.job.catch()
	defer s.job.release()
	if err := s.begin(); err != nil {
		return err
	}
	defer s.unwatch()
	s.snapper = agent.NewSnapper(s.job.root, agent.SnapperOptions{Live: s.live(), Late: s.watchLate})
	defer s.snapper.Close()
	if s.saving != nil {
		s.saving.Options.Dir = s.dir
		s.timer = time.NewTimer(s.saving.Next())
		s.job.tick, s.job.onTick = s.timer.C, s.saveNow
	}
	ws, err := s.job.stay()
	if err != nil {
		return err
	}
	code := int(fault.Interrupted)
	if s.saved == nil {
		code = statusOf(ws)
		s.ended(ws)
	}
	if c.json {
		if err := c.object(runJSON{s.dir, s.resumed, s.job.root, s.saved, code}); err != nil {
			return err
		}
	}
	return status(code)
}

// begin resumes the command from the head of the store, or starts it.
func (s *session) begin() error {
	r, had, err := resumePoint(s.dir, s.args)
	if err != nil {
		return err
	}
	if r == nil {
		s.streams = ownStreamFiles()
		return s.start()
	}
	defer r.Close()
	var tree *restored
	err = s.job.during(s.ctx, 0, func(ctx context.Context) (err error) {
		o := restore.Options{PidNS: s.cli.String("pidns"), Files: s.cli.String("files"), Std: ownStreams()}
		s.streams, o.Given = had.replaced(s.dir)
		tree, err = startRestore(ctx, r, o)
		return err
	})
	if err != nil {
		return err
	}
	s.notes(tree)
	if marksRegions(fmt.Sprintf("/proc/%d/exe", tree.Root)) {
		s.watch(tree.Root, false)
	}
	info := r.Info()
	s.resumed, s.job.root, s.job.foreign = info.ID, tree.Root, tree.Wait
	s.say("going on from %s@%s, saved %s", s.dir, imageName(info.Name, info.ID), info.Taken().Format(time.DateTime))
	return nil
}

// start starts the command in a process group of its own, with our standard streams.
func (s *session) start() error {
	path, err := exec.LookPath(s.args[0])
	if err != nil {
		return fault.New(fault.StartCommand, s.args[0], "%w", errors.Unwrap(err))
	}
	if err := errors.Join(tryStore(s.dir), s.lock.hold(s.dir)); err != nil {
		return err
	}
	keepSaveable()
	attr := &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setpgid: true}}
	var p *os.Process
	if marksRegions(path) {
		p, err = s.startWatched(path, attr)
	} else {
		p, err = os.StartProcess(path, s.args, attr)
	}
	if err != nil {
		return fault.New(fault.StartCommand, s.args[0], "%w", err)
	}
	s.job.root = p.Pid
	ctx, cancel := context.WithCancel(s.ctx)
	s.hurry = cancel
	go s.foresee(ctx, p.Pid)
	return nil
}

// foreseeAfter is when a command that was started has most likely opened what it needs.
const foreseeAfter = 3 * time.Second

// foresee tells, once and early, what would keep the command from being saved: not only when hours of work depend on
// it.
func (s *session) foresee(ctx context.Context, pid int) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(foreseeAfter):
	}
	report, err := snapshot.Check(ctx, pid)
	if err != nil || ctx.Err() != nil {
		return // it has ended, or a signal asks for the real thing
	}
	const some = 3
	for i, e := range report.Blockers {
		if i == some {
			s.note("there are %d more, see `bpfckpt check %d`", len(report.Blockers)-some, pid)
			return
		}
		s.note("as it is now the command could not be saved: %s", e.Error())
	}
}

// keepSaveable keeps what cannot be saved of the descriptors we inherited ourselves from the command: pipes and sockets
// that make, a terminal or an editor left open would make every snapshot fail.
func keepSaveable() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // a snapshot will name what is in its way
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		var st unix.Stat_t
		if err != nil || fd < 3 || unix.Fstat(fd, &st) != nil {
			continue
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG, unix.S_IFDIR, unix.S_IFCHR, unix.S_IFBLK:
		default:
			unix.CloseOnExec(fd)
		}
	}
}

// gave tells, once, what handing over the terminal changes.
func (s *session) gave() {
	s.say("the command reads from the terminal, so Ctrl-C is its own now; `kill %d` saves and stops it", os.Getpid())
	s.job.onGive = nil
}

// save is what SIGINT, SIGTERM and SIGHUP do: snapshot, kill, end. If the snapshot fails the command runs on.
func (s *session) save(sig unix.Signal) (over bool, err error) {
	if s.refused {
		s.job.send(sig)
		return false, nil
	}
	s.hurry()
	res, err := s.snap()
	if err == nil {
		s.saved = res
		s.keepStreams()
		s.remember(runNote{Streams: s.streams, Args: s.args, Image: res.ID})
		s.note("saved %s@%s (%s); go on with: %s", s.dir, imageName(res.Name, res.ID), microsText(res.WallUS),
			s.again())
		return true, s.reap()
	}
	if agent.Gone(err, s.job.root) {
		return false, nil
	}
	s.refused = true
	for _, sig := range s.job.later {
		if sig == unix.SIGUSR1 || sig == unix.SIGUSR2 || sig == unix.SIGQUIT || sig == unix.SIGWINCH {
			s.job.send(sig)
		}
	}
	s.job.later = nil
	for _, e := range fault.Of(err) {
		s.note("%s", e.Error())
	}
	s.note("%s", fault.New(fault.SnapAtSignal, s.args[0], "it could not be saved, and runs on").Error())
	return false, nil
}

// canceled reports whether a snapshot was given up because its context ended.
func canceled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, &fault.Error{Code: fault.Interrupt})
}

// echo is how soon after the signal that asked for a snapshot another one is the same request, not a change of mind.
const echo = 3 * time.Second

// snap takes the snapshot; another signal meanwhile cancels it, but for an echo.
func (s *session) snap() (res *snapshot.Result, err error) {
	progress, finish := s.bar("saving")
	defer finish()
	err = s.job.during(s.ctx, echo, func(ctx context.Context) (err error) {
		o := snapshot.Options{Dir: s.dir, Kill: true, Progress: progress, Precopy: true}
		if s.saving != nil {
			o.Incremental, o.Compress, o.Exclude = true, s.saving.Options.Compress, s.saving.Options.Exclude
		}
		res, err = s.snapper.Snap(ctx, o)
		return err
	})
	return res, err
}

// saveNow takes one periodic snapshot. A signal that ends it is seen to by whoever called.
func (s *session) saveNow() {
	var o agent.Outcome
	_ = s.job.during(s.ctx, 0, func(ctx context.Context) error { // the error is in o
		o = s.saving.Once(ctx, s.snapper)
		return nil
	})
	s.timer.Reset(s.saving.Next())
	if o.Result != nil {
		s.keepStreams()
		s.remember(runNote{Streams: s.streams, Args: s.args, Image: o.Result.ID})
	}
	if o.Why != "" {
		s.say("%s is saved %s", s.args[0], o.Why)
	}
	before := s.failure
	s.failure = ""
	if o.Err == nil || canceled(o.Err) || agent.Gone(o.Err, s.job.root) {
		return
	}
	if s.failure = o.Err.Error(); s.failure == before {
		return // it was told
	}
	for _, e := range fault.Of(o.Err) {
		s.note("a periodic snapshot: %s", e.Error())
	}
}

// reap waits for the killed root, so that its id is free when we end.
func (s *session) reap() error {
	_, err := waitChild(s.job.root)
	if errors.Is(err, unix.ECHILD) && s.job.foreign != nil {
		_, err = s.job.foreign(s.ctx)
	}
	if err != nil {
		return fault.New(fault.Internal, "pid "+itoa(s.job.root), "wait for the killed process: %w", err)
	}
	return nil
}

// ended records that the command ended: if by itself, its image is no point to go on from any more.
func (s *session) ended(ws unix.WaitStatus) {
	head, err := headOf(s.dir)
	if err != nil {
		return // no image, or none that could be gone on from
	}
	if ws.Signaled() {
		s.note("killed by %s; the same command goes on from %s@%s: %s", unix.SignalName(ws.Signal()), s.dir, head,
			s.again())
		return
	}
	s.forgetStreams()
	s.remember(runNote{Args: s.args, Image: head, Finished: true})
	if ws.ExitStatus() != 0 {
		s.say("ended with status %d; the same command starts afresh, `bpfckpt restore %s` goes back to its last image", ws.ExitStatus(), s.dir)
	}
}

// remember writes the note; a failure is worth a line, but no more: the images tell nearly as much.
func (s *session) remember(n runNote) {
	if err := writeNote(s.dir, n); err != nil {
		s.note("%s", fault.New(fault.RunStore, s.dir, "write the note: %w", err).Error())
	}
}

// again is the command line that goes on.
func (s *session) again() string {
	line := "bpfckpt run"
	if dir := s.cli.String("dir"); dir != "" {
		line += " --dir " + quote(dir)
	}
	line += " --"
	for _, a := range s.args {
		line += " " + quote(a)
	}
	return line
}

// quote makes one word of the shell of text.
func quote(text string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./_-"
	if text != "" && strings.Trim(text, plain) == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

func itoa(n int) string { return fmt.Sprint(n) }

// headOf returns the id of the newest image of a store.
func headOf(dir string) (string, error) {
	r, err := image.Open(dir)
	if err != nil {
		return "", err
	}
	defer r.Close()
	return r.Info().ID, nil
}
