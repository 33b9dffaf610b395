package job

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/restore"
)

// Restored is a process tree that has been brought back.
type Restored struct {
	*restore.Result
	Info image.Info // of the image
}

// Restore brings an image back. Errors are those of restore.Restore.
func Restore(ctx context.Context, r *image.Reader, o restore.Options) (*Restored, error) {
	res, err := restore.Restore(ctx, r, o)
	if err != nil {
		return nil, err
	}
	return &Restored{res, r.Info()}, nil
}

// OwnStreams are our standard streams, to attach those of an image to.
func OwnStreams() [3]*os.File { return [3]*os.File{os.Stdin, os.Stdout, os.Stderr} }

// Abandon kills what was restored, for when it cannot be told to anybody.
func (r *Restored) Abandon() {
	for _, pid := range r.Pids {
		_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
	}
	_, _ = r.Await(context.Background())
}

// Await waits for the end of the root. One that is no child of ours is waited for no longer than ctx.
func (r *Restored) Await(ctx context.Context) (unix.WaitStatus, error) {
	ws, err := WaitChild(r.Root)
	if errors.Is(err, unix.ECHILD) {
		return r.Wait(ctx) // it is the child of the init of its pid namespace
	}
	return ws, err
}

// WaitChild waits for the end of a child; unix.ECHILD if it is none.
func WaitChild(pid int) (unix.WaitStatus, error) {
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
		if !errors.Is(err, unix.EINTR) {
			return ws, err
		}
	}
}

// ExitCode turns a wait status into an exit code as shells do: the process's own, or 128 plus the number of the signal
// that killed it.
func ExitCode(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
