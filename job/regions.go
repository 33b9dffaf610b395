package job

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/regions"
	"github.com/bpfckpt/bpfckpt/tracer"
)

// marksRegions reports whether an executable marks critical sections (include/bpfckpt.h).
func marksRegions(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false // one that can be executed but not read; a snapshot will tell
	}
	defer f.Close()
	marks, err := regions.Find(f)
	return err == nil && marks.Any()
}

// startWatched starts a program and watches it from before its first instruction: a watch that comes later cannot know
// whether it is in a region. The kernel stops it for us at the end of execve(2), as it does for a debugger, which we
// are no longer when it runs.
func (j *Job) startWatched(path string, attr *os.ProcAttr) (*os.Process, error) {
	runtime.LockOSThread() // it is traced by this thread
	defer runtime.UnlockOSThread()
	attr.Sys.Ptrace = true
	p, err := os.StartProcess(path, j.Args, attr)
	if err != nil {
		return nil, err
	}
	var ws unix.WaitStatus
	for {
		if _, err = unix.Wait4(p.Pid, &ws, 0, nil); err != unix.EINTR {
			break
		}
	}
	if err != nil || !ws.Stopped() {
		return p, nil // it was killed, as whoever waits for it will see
	}
	j.watch(p.Pid, true)
	if err := unix.PtraceDetach(p.Pid); err != nil && err != unix.ESRCH {
		_ = p.Kill()
		return nil, fault.New(fault.StartCommand, j.Args[0], "let it go: %w", err)
	}
	return p, nil
}

// watch begins to watch the command for the snapshots to come. If it cannot be watched it runs all the same; what is
// then not saved is told now.
func (j *Job) watch(pid int, atStart bool) {
	w, err := tracer.Watch(j.ctx, pid, tracer.WatchOptions{AtStart: atStart, NoDL: true})
	if err != nil {
		j.Observer.Note(fmt.Sprintf("the command marks critical sections, in which no snapshot may be taken, and cannot be watched, so it cannot be saved: %v", err))
		return
	}
	j.watcher = w
}

// live is the source of kernel state of the watch, nil without one.
func (j *Job) live() func() kstate.Source {
	if j.watcher == nil {
		return nil
	}
	return func() kstate.Source { return j.watcher.Source() }
}

// watchLate begins to watch a command of which only now it turns out that it marks critical sections, in a library.
func (j *Job) watchLate() func() kstate.Source {
	j.watch(j.place.root, false)
	return j.live()
}

func (j *Job) unwatch() {
	if j.watcher != nil {
		j.watcher.Close()
	}
}
