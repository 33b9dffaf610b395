package job

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

// start starts the command in a process group of its own, with our standard streams.
func (j *Job) start() error {
	path, err := exec.LookPath(j.Args[0])
	if err != nil {
		return fault.New(fault.StartCommand, j.Args[0], "%w", errors.Unwrap(err))
	}
	if err := errors.Join(tryStore(j.Dir), j.lock.hold(j.Dir)); err != nil {
		return err
	}
	keepSaveable()
	attr := &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setpgid: true}}
	var p *os.Process
	if marksRegions(path) {
		p, err = j.startWatched(path, attr)
	} else {
		p, err = os.StartProcess(path, j.Args, attr)
	}
	if err != nil {
		return fault.New(fault.StartCommand, j.Args[0], "%w", err)
	}
	j.place.root = p.Pid
	ctx, cancel := context.WithCancel(j.ctx)
	j.hurry = cancel
	go j.foresee(ctx, p.Pid)
	return nil
}

// foreseeAfter is when a command that was started has most likely opened what it needs.
const foreseeAfter = 3 * time.Second

// foresee tells, once and early, what would keep the command from being saved: not only when hours of work depend on
// it.
func (j *Job) foresee(ctx context.Context, pid int) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(foreseeAfter):
	}
	report, err := snapshot.Check(ctx, pid, j.Policy)
	if err != nil || ctx.Err() != nil {
		return // it has ended, or a signal asks for the real thing
	}
	j.Observer.Foreseen(pid, report.Blockers)
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

// gave tells, once, that the terminal was handed over.
func (j *Job) gave() {
	j.Observer.GaveTerminal()
	j.place.onGive = nil
}
