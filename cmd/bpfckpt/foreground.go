package main

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

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// job is a process tree in whose place the command stands in the foreground: signals go on to it, stops and the end
// come back.
//
// Waiting is driven by SIGCHLD and never blocks in wait4, so that nothing here takes a stop that belongs to a
// snapshot's tracer: wait4 sees the tracees of every thread of this process.
type job struct {
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

// catch begins to collect signals, before there is a process to pass them on to: none is lost and none ends the command
// meanwhile.
func (j *job) catch() {
	j.signals = make(chan os.Signal, 64)
	for _, s := range forwarded {
		if !signal.Ignored(s) { // nohup stays nohup
			signal.Notify(j.signals, s)
		}
	}
}

// release undoes catch.
func (j *job) release() { signal.Stop(j.signals) }

// during runs f while signals come in: SIGINT, SIGTERM and SIGHUP end its context, the others are for later. What f was
// too quick for is for later as well. A signal that would end the context is taken for an echo of the one before if it
// comes within grace: timeout(1), a terminal and a supervisor at once, and others send theirs to a process and to its
// group.
func (j *job) during(ctx context.Context, grace time.Duration, f func(context.Context) error) error {
	begun := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case s := <-j.signals:
			switch s {
			case unix.SIGINT, unix.SIGTERM, unix.SIGHUP:
				if grace > 0 && s == unix.SIGHUP || time.Since(begun) < grace { // nobody takes a hang-up back
					continue
				}
				cancel()
			}
			j.later = append(j.later, s.(unix.Signal))
		}
	}
}

// stay stands in for the tree until its root ends or onStop says so, and returns the wait status of the root. After
// catch.
func (j *job) stay() (unix.WaitStatus, error) {
	j.pgid, _ = unix.Getpgid(j.root) // a root that has ended already is seen below
	if j.early && j.tty.give(j.pgid) {
		j.send(unix.SIGWINCH) // the terminal may have another size, and does not show what it showed
	}
	defer j.tty.take()
	if over, err := j.passLater(); over || err != nil {
		return 0, err
	}
	watch, stop := j.stopWatch()
	defer stop()
	for {
		status, over, err := j.look()
		if over || err != nil {
			return status, err
		}
		select {
		case s := <-j.signals:
			over, err := j.pass(s.(unix.Signal))
			if over || err != nil {
				return 0, err
			}
		case e := <-j.ended:
			return e.status, e.err
		case <-watch:
			j.lookForeign()
		case <-j.tick:
			j.onTick()
			if over, err := j.passLater(); over || err != nil {
				return 0, err
			}
		}
	}
}

// passLater hands on the signals that came while there was nobody to take them.
func (j *job) passLater() (over bool, err error) {
	list := j.later
	j.later = nil
	for _, s := range list {
		if over, err := j.pass(s); over || err != nil {
			return over, err
		}
	}
	return false, nil
}

// look asks the kernel what became of the root, without waiting.
func (j *job) look() (status unix.WaitStatus, over bool, err error) {
	if j.ended != nil {
		return 0, false, nil
	}
	for {
		pid, err := unix.Wait4(j.root, &status, unix.WNOHANG|unix.WUNTRACED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD) && j.foreign != nil:
			j.waitForeign()
			return 0, false, nil
		case err != nil:
			return 0, false, fault.New(fault.Internal, "pid "+itoa(j.root), "wait for the process: %w", err)
		case pid == 0:
			return 0, false, nil
		case status.Stopped():
			j.stopped(status.StopSignal())
			continue
		}
		j.tty.take()
		if status.Signaled() {
			j.tty.reset()
		}
		return status, true, nil
	}
}

func (j *job) waitForeign() {
	ended := make(chan ending, 1)
	go func() {
		status, err := j.foreign(context.Background())
		ended <- ending{status, err}
	}()
	j.ended = ended
}

// stopWatch returns a ticker for roots whose stops nobody reports, see lookForeign.
func (j *job) stopWatch() (<-chan time.Time, func()) {
	if j.foreign == nil || j.tty == nil {
		return nil, func() {}
	}
	t := time.NewTicker(200 * time.Millisecond)
	return t.C, t.Stop
}

// lookForeign looks whether a root that is not our child has stopped. Why is not to be had; the first time it is taken
// to want the terminal.
func (j *job) lookForeign() {
	if j.ended == nil {
		return // it is our child
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", j.root))
	if err != nil || !bytes.HasPrefix(text[bytes.LastIndexByte(text, ')')+1:], []byte(" T ")) {
		return
	}
	j.stopped(unix.SIGTTIN)
}

// pass hands a signal on.
func (j *job) pass(s unix.Signal) (over bool, err error) {
	switch s {
	case unix.SIGCHLD:
		return false, nil // look follows
	case unix.SIGINT, unix.SIGTERM, unix.SIGHUP:
		if j.onStop != nil {
			return j.onStop(s)
		}
		if s == unix.SIGINT && j.shared() {
			return false, nil
		}
	case unix.SIGTSTP:
		if time.Since(j.resumed) < oneKey {
			return false, nil
		}
		if !j.shared() {
			j.send(s)
		}
		j.pause()
		return false, nil
	case unix.SIGQUIT, unix.SIGWINCH:
		if j.shared() {
			return false, nil
		}
	}
	j.send(s)
	return false, nil
}

// shared reports whether the root is in our process group and that is the foreground group: it gets what the terminal
// generates by itself, and must not get it twice.
func (j *job) shared() bool { return j.pgid == unix.Getpgrp() && j.tty != nil && j.tty.ours() }

// send sends a signal to the tree as a terminal would: those a terminal generates to the whole process group, others to
// the root.
func (j *job) send(s unix.Signal) {
	target := j.root
	switch s {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGTSTP, unix.SIGCONT, unix.SIGWINCH:
		if j.pgid > 1 && j.pgid != unix.Getpgrp() {
			target = -j.pgid
		}
	}
	_ = unix.Kill(target, s) // it may have ended just now
}

// stopped answers a job-control stop of the root. One that wants the terminal gets it; else we stop as well, so that
// the shell goes on.
func (j *job) stopped(s unix.Signal) {
	if s == unix.SIGTTIN || s == unix.SIGTTOU {
		if j.tty.has(j.pgid) {
			j.send(unix.SIGCONT) // it asked before it was given
			return
		}
		if j.tty.give(j.pgid) {
			j.send(unix.SIGCONT)
			if j.onGive != nil {
				j.onGive()
			}
			return
		}
		// we are in the background, like any command there that reads from the terminal: until the shell brings us to
		// the front
		if j.tty != nil {
			j.pause()
			return
		}
	}
	if j.tty != nil && (j.tty.given || j.tty.ours()) {
		j.pause()
	}
}

// pause gives the terminal back and stops this process. When the shell continues it, the tree goes on too.
func (j *job) pause() {
	had := j.tty != nil && j.tty.given
	j.tty.take()
	j.stopSelf()
	if had || j.early {
		j.tty.give(j.pgid) // only if the shell put us in the foreground
	}
	j.send(unix.SIGCONT)
	j.resumed = time.Now()
}

// oneKey is how far apart what one Ctrl-Z causes may reach us: our own SIGTSTP, and the stop of a root in our process
// group. Only the first of them stops us.
const oneKey = 100 * time.Millisecond

// stopSelf stops this process as Ctrl-Z stops one that does not catch it: not at all in an orphaned process group,
// where no shell is there to continue it. The signal goes to this very thread, so that it has acted when the call
// returns. It is SIGSTOP, since the Go runtime does not give back the default action of SIGTSTP.
func (j *job) stopSelf() {
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
