package main

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/restore"
)

// restored is a process tree that has been brought back.
type restored struct {
	*restore.Result
	info image.Info
}

// startRestore brings an image back.
func startRestore(ctx context.Context, r *image.Reader, o restore.Options) (*restored, error) {
	res, err := restore.Restore(ctx, r, o)
	if err != nil {
		return nil, err
	}
	return &restored{res, r.Info()}, nil
}

// notes prints what the user should know of a restore.
func (u *ui) notes(r *restored) {
	for _, n := range r.Notes {
		u.note("%s", n)
	}
}

// ownStreams are the standard streams to attach those of the image to.
func ownStreams() [3]*os.File { return [3]*os.File{os.Stdin, os.Stdout, os.Stderr} }

// abandon kills what was restored, for when it cannot be told to anybody.
func (r *restored) abandon() {
	for _, pid := range r.Pids {
		_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
	}
	_, _ = r.await(context.Background())
}

// await waits for the end of the root.
func (r *restored) await(ctx context.Context) (unix.WaitStatus, error) {
	ws, err := waitChild(r.Root)
	if errors.Is(err, unix.ECHILD) {
		return r.Wait(ctx) // it is the child of the init of its pid namespace
	}
	return ws, err
}

// waitChild waits for the end of a child.
func waitChild(pid int) (unix.WaitStatus, error) {
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
		if !errors.Is(err, unix.EINTR) {
			return ws, err
		}
	}
}
