package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/restore"
)

// Foreground is a process tree in whose place this process stands in the foreground: signals go on to it, stops and the
// end come back. Its methods are called by one goroutine.
//
// Waiting is driven by SIGCHLD and never blocks in wait4, so that nothing here takes a stop that belongs to a
// snapshot's tracer: wait4 sees the tracees of every thread of this process.
type Foreground struct {
	root  int // pid of the root of the tree, as we see it
	pgid  int // its process group
	tty   *terminal
	early bool // hand over the terminal at once, not when it is asked for
	// takes SIGINT, SIGTERM and SIGHUP instead of passing them on; may be nil
	onStop  func(sig unix.Signal) (over bool, err error)
	foreign func(context.Context) (unix.WaitStatus, error) // waits for a root that is not our child
	// called when the terminal was handed over because it was asked for; may be nil
	onGive  func()
	tick    <-chan time.Time // nil, or when onTick is to be called
	onTick  func()           // may collect signals in later, which are passed on after it
	ended   chan ending      // from foreign
	signals chan os.Signal
	resumed time.Time     // when we went on after a stop
	later   []unix.Signal // came while there was nobody to pass them on to
}

type ending struct {
	status unix.WaitStatus
	err    error
}

// forwarded are the signals that the command passes on.
var forwarded = []os.Signal{
	unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH, unix.SIGTSTP,
	unix.SIGCONT,
	unix.SIGALRM, unix.SIGCHLD,
}

// NewForeground prepares to stand in the place of a tree that there is not yet: from here on signals are collected, so
// that none is lost and none ends this process meanwhile. A tree gets the terminal at once if both our input and our
// output are one, else when it asks for it. Close must follow.
func NewForeground() *Foreground {
	f := newForeground()
	f.early = ownsTerminal()
	return f
}

func newForeground() *Foreground {
	f := &Foreground{tty: openTerminal(), signals: make(chan os.Signal, 64)}
	for _, s := range forwarded {
		if !signal.Ignored(s) { // nohup stays nohup
			signal.Notify(f.signals, s)
		}
	}
	return f
}

// Close gives signals and the terminal back to what they were before.
func (f *Foreground) Close() {
	signal.Stop(f.signals)
	f.tty.close()
}

// Restore brings an image back, unless SIGINT, SIGTERM or SIGHUP comes meanwhile. Errors are those of restore.Restore.
func (f *Foreground) Restore(ctx context.Context, r *image.Reader, o restore.Options) (tree *Restored, err error) {
	err = f.during(ctx, 0, func(ctx context.Context) (err error) {
		tree, err = Restore(ctx, r, o)
		return err
	})
	return tree, err
}

// Stay stands in for a tree until its root ends, and returns the wait status of that.
func (f *Foreground) Stay(tree *Restored) (unix.WaitStatus, error) {
	f.root, f.foreign = tree.Root, tree.Wait
	return f.stay()
}

// during does something while signals come in: SIGINT, SIGTERM and SIGHUP end its context, the others are for later.
// What it was too quick for is for later as well. A signal that would end the context is taken for an echo of the one
// before if it comes within grace: timeout(1), a terminal and a supervisor at once, and others send theirs to a process
// and to its group.
func (f *Foreground) during(ctx context.Context, grace time.Duration, do func(context.Context) error) error {
	begun := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case s := <-f.signals:
			switch s {
			case unix.SIGINT, unix.SIGTERM, unix.SIGHUP:
				if grace > 0 && s == unix.SIGHUP || time.Since(begun) < grace { // nobody takes a hang-up back
					continue
				}
				cancel()
			}
			f.later = append(f.later, s.(unix.Signal))
		}
	}
}

// stay stands in for the tree until its root ends or onStop says so, and returns the wait status of the root.
func (f *Foreground) stay() (unix.WaitStatus, error) {
	f.pgid, _ = unix.Getpgid(f.root) // a root that has ended already is seen below
	if f.early && f.tty.give(f.pgid) {
		f.send(unix.SIGWINCH) // the terminal may have another size, and does not show what it showed
	}
	defer f.tty.take()
	if over, err := f.passLater(); over || err != nil {
		return 0, err
	}
	watch, stop := f.stopWatch()
	defer stop()
	for {
		status, over, err := f.look()
		if over || err != nil {
			return status, err
		}
		select {
		case s := <-f.signals:
			over, err := f.pass(s.(unix.Signal))
			if over || err != nil {
				return 0, err
			}
		case e := <-f.ended:
			return e.status, e.err
		case <-watch:
			f.lookForeign()
		case <-f.tick:
			f.onTick()
			if over, err := f.passLater(); over || err != nil {
				return 0, err
			}
		}
	}
}

// passLater hands on the signals that came while there was nobody to take them.
func (f *Foreground) passLater() (over bool, err error) {
	list := f.later
	f.later = nil
	for _, s := range list {
		if over, err := f.pass(s); over || err != nil {
			return over, err
		}
	}
	return false, nil
}

// look asks the kernel what became of the root, without waiting.
func (f *Foreground) look() (status unix.WaitStatus, over bool, err error) {
	if f.ended != nil {
		return 0, false, nil
	}
	for {
		pid, err := unix.Wait4(f.root, &status, unix.WNOHANG|unix.WUNTRACED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD) && f.foreign != nil:
			f.waitForeign()
			return 0, false, nil
		case err != nil:
			return 0, false, fault.New(fault.Internal, pidName(f.root), "wait for the process: %w", err)
		case pid == 0:
			return 0, false, nil
		case status.Stopped():
			f.stopped(status.StopSignal())
			continue
		}
		f.tty.take()
		if status.Signaled() {
			f.tty.reset()
		}
		return status, true, nil
	}
}

func (f *Foreground) waitForeign() {
	ended := make(chan ending, 1)
	go func() {
		status, err := f.foreign(context.Background())
		ended <- ending{status, err}
	}()
	f.ended = ended
}

// stopWatch returns a ticker for roots whose stops nobody reports, see lookForeign.
func (f *Foreground) stopWatch() (<-chan time.Time, func()) {
	if f.foreign == nil || f.tty == nil {
		return nil, func() {}
	}
	t := time.NewTicker(200 * time.Millisecond)
	return t.C, t.Stop
}

// lookForeign looks whether a root that is not our child has stopped. Why is not to be had; the first time it is taken
// to want the terminal.
func (f *Foreground) lookForeign() {
	if f.ended == nil {
		return // it is our child
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", f.root))
	if err != nil || !bytes.HasPrefix(text[bytes.LastIndexByte(text, ')')+1:], []byte(" T ")) {
		return
	}
	f.stopped(unix.SIGTTIN)
}

// pass hands a signal on.
func (f *Foreground) pass(s unix.Signal) (over bool, err error) {
	switch s {
	case unix.SIGCHLD:
		return false, nil // look follows
	case unix.SIGINT, unix.SIGTERM, unix.SIGHUP:
		if f.onStop != nil {
			return f.onStop(s)
		}
		if s == unix.SIGINT && f.shared() {
			return false, nil
		}
	case unix.SIGTSTP:
		if time.Since(f.resumed) < oneKey {
			return false, nil
		}
		if !f.shared() {
			f.send(s)
		}
		f.pause()
		return false, nil
	case unix.SIGQUIT, unix.SIGWINCH:
		if f.shared() {
			return false, nil
		}
	}
	f.send(s)
	return false, nil
}

// shared reports whether the root is in our process group and that is the foreground group: it gets what the terminal
// generates by itself, and must not get it twice.
func (f *Foreground) shared() bool { return f.pgid == unix.Getpgrp() && f.tty != nil && f.tty.ours() }

// send sends a signal to the tree as a terminal would: those a terminal generates to the whole process group, others to
// the root.
func (f *Foreground) send(s unix.Signal) {
	target := f.root
	switch s {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGTSTP, unix.SIGCONT, unix.SIGWINCH:
		if f.pgid > 1 && f.pgid != unix.Getpgrp() {
			target = -f.pgid
		}
	}
	_ = unix.Kill(target, s) // it may have ended just now
}

// stopped answers a job-control stop of the root. One that wants the terminal gets it; else we stop as well, so that
// the shell goes on.
func (f *Foreground) stopped(s unix.Signal) {
	if s == unix.SIGTTIN || s == unix.SIGTTOU {
		if f.tty.has(f.pgid) {
			f.send(unix.SIGCONT) // it asked before it was given
			return
		}
		if f.tty.give(f.pgid) {
			f.send(unix.SIGCONT)
			if f.onGive != nil {
				f.onGive()
			}
			return
		}
		// we are in the background, like any command there that reads from the terminal: until the shell brings us to
		// the front
		if f.tty != nil {
			f.pause()
			return
		}
	}
	if f.tty != nil && (f.tty.given || f.tty.ours()) {
		f.pause()
	}
}

// pause gives the terminal back and stops this process. When the shell continues it, the tree goes on too.
func (f *Foreground) pause() {
	had := f.tty != nil && f.tty.given
	f.tty.take()
	f.stopSelf()
	if had || f.early {
		f.tty.give(f.pgid) // only if the shell put us in the foreground
	}
	f.send(unix.SIGCONT)
	f.resumed = time.Now()
}

// oneKey is how far apart what one Ctrl-Z causes may reach us: our own SIGTSTP, and the stop of a root in our process
// group. Only the first of them stops us.
const oneKey = 100 * time.Millisecond

// stopSelf stops this process as Ctrl-Z stops one that does not catch it: not at all in an orphaned process group,
// where no shell is there to continue it. The signal goes to this very thread, so that it has acted when the call
// returns. It is SIGSTOP, since the Go runtime does not give back the default action of SIGTSTP.
func (f *Foreground) stopSelf() {
	if orphaned() {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP) // it cannot fail for ourselves
}

// orphaned reports whether no ancestor of ours, of another process group in our session, could continue us (setpgid(2),
// NOTES).
func orphaned() bool {
	group, err := unix.Getpgid(0)
	session, err2 := unix.Getsid(0)
	if err != nil || err2 != nil {
		return true
	}
	for pid := unix.Getppid(); pid > 0; {
		g, err := unix.Getpgid(pid)
		s, err2 := unix.Getsid(pid)
		if err != nil || err2 != nil || s != session {
			return true
		}
		if g != group {
			return false
		}
		if pid, err = parentOf(pid); err != nil {
			return true
		}
	}
	return true
}

// parentOf reads field 4 of proc_pid_stat(5).
func parentOf(pid int) (parent int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	var state string
	_, err = fmt.Sscan(string(text[bytes.LastIndexByte(text, ')')+1:]), &state, &parent)
	return parent, err
}
