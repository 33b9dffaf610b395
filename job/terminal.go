package job

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is the controlling terminal of the command, as far as handing it on is concerned (tcsetpgrp(3), termios(3)).
type terminal struct {
	f     *os.File
	own   int         // our process group
	given bool        // the foreground is another group's
	modes *term.State // as they were before
}

// openTerminal returns the controlling terminal, nil if there is none. Another group may be in its foreground: a shell
// can bring us there later (fg).
func openTerminal() *terminal {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	t := &terminal{f: f, own: unix.Getpgrp()}
	t.learnModes()
	return t
}

// learnModes remembers the modes for reset, the first time that we are in the foreground: before they are somebody
// else's.
func (t *terminal) learnModes() {
	if t.modes == nil && t.ours() {
		t.modes, _ = term.GetState(int(t.f.Fd())) // without them there is nothing to put back
	}
}

func (t *terminal) foregroundGroup() int {
	pgid, err := unix.IoctlGetInt(int(t.f.Fd()), unix.TIOCGPGRP)
	if err != nil {
		return -1
	}
	return pgid
}

func (t *terminal) ours() bool { return t.foregroundGroup() == t.own }

// set makes pgid the foreground group. The kernel sends SIGTTOU to a background process that tries, unless it ignores
// it.
func (t *terminal) set(pgid int) error {
	signal.Ignore(unix.SIGTTOU)
	defer signal.Reset(unix.SIGTTOU)
	return unix.IoctlSetPointerInt(int(t.f.Fd()), unix.TIOCSPGRP, pgid)
}

// give makes pgid the foreground group, if it is in our session and we had the foreground, and reports whether it did.
func (t *terminal) give(pgid int) bool {
	if t == nil || pgid == t.own || !t.ours() {
		return false
	}
	t.learnModes()
	if t.set(pgid) != nil {
		return false
	}
	t.given = true
	return true
}

// has reports whether pgid is the foreground group.
func (t *terminal) has(pgid int) bool { return t != nil && t.foregroundGroup() == pgid }

// take makes our group the foreground group again after give.
func (t *terminal) take() {
	if t == nil || !t.given {
		return
	}
	t.given = false
	_ = t.set(t.own) // it fails only if the terminal has hung up
}

// reset puts the modes back as they were before; for after a program that had no chance to do it itself.
func (t *terminal) reset() {
	if t == nil || t.modes == nil || !t.ours() {
		return
	}
	_ = term.Restore(int(t.f.Fd()), t.modes)
}

func (t *terminal) close() {
	if t != nil {
		t.f.Close()
	}
}

// ownsTerminal reports whether the command is used interactively: both its input and its output are a terminal. In a
// pipeline another member may need the foreground.
func ownsTerminal() bool {
	return term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))
}
