package restore

import (
	"encoding/binary"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/policy"
)

// terminals is what a terminal of the restore, or of its streams, becomes for the processes.
type terminals struct {
	j      *journal
	st     *model.State
	std    [3]*os.File // Options.Std
	policy policy.Policy
}

// take gives the leader of a session its controlling terminal, its foreground group and its modes again, where
// the terminal of the restore stands in for its own: if this command leads the session of that terminal itself, as
// below a terminal emulator or ssh, nobody else needs it. Below a shell, which could never get it back, the processes
// are without job control (tty_ioctl(4), TIOCSCTTY).
func (t *terminals) take(b *batch, p *process) {
	if p.rec.TTY == 0 || p.rec.Sid != p.rec.Pid || t.policy.Of(policy.Terminal) == policy.Null {
		return
	}
	fd, term := t.own(p.rec)
	if term == nil {
		return
	}
	if session, err := unix.Getsid(0); err != nil || session != os.Getpid() {
		t.j.note("%s led the session of its terminal and leads it no longer, since the shell of this one does: "+
			"it has no job control; start the restore as the first command of a terminal for that",
			p.object())
		return
	}
	const steal = 1
	b.call("take the controlling terminal", unix.SYS_IOCTL, fd, unix.TIOCSCTTY, steal)
	if slices.ContainsFunc(t.st.Processes, func(o model.Process) bool { return o.Pid == term.Foreground }) {
		b.callWant(ignore, "set the foreground group", unix.SYS_IOCTL, fd, unix.TIOCSPGRP,
			inBytes(binary.LittleEndian.AppendUint32(nil, uint32(term.Foreground))))
	}
	b.callWant(ignore, "set the modes of the terminal", unix.SYS_IOCTL, fd, unix.TCSETS2, inBytes(term.Termios))
}

// own finds a descriptor of the controlling terminal of a process, if ours stands in for it.
func (t *terminals) own(rec *model.Process) (fd int, term *model.Terminal) {
	ours, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return 0, nil
	}
	defer ours.Close()
	own, err := unix.IoctlGetUint32(int(ours.Fd()), unix.TIOCGDEV)
	if err != nil {
		return 0, nil
	}
	for _, d := range rec.FDs {
		f := &t.st.Files[d.File-1]
		if f.Term == 0 || f.Rdev != uint64(rec.TTY) {
			continue
		}
		if f.Std != 0 {
			std := t.std[f.Std-1]
			if std == nil {
				continue
			}
			if dev, err := unix.IoctlGetUint32(int(std.Fd()), unix.TIOCGDEV); err != nil || dev != own {
				continue
			}
		}
		return d.Num, &t.st.Terminals[f.Term-1]
	}
	return 0, nil
}
