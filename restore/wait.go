package restore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// waiter knows how to learn the end of the root process.
type waiter struct {
	root   int
	parent *parent
}

// Wait waits until the root process has ended and returns how. It is for restores that are not detached; the process is
// a child of the caller, or in a pid namespace of its own a child of that namespace's init. Stops and continuations are
// not reported. When ctx ends first Wait returns its error and the process runs on; it may be called again.
func (res *Result) Wait(ctx context.Context) (unix.WaitStatus, error) {
	type end struct {
		status unix.WaitStatus
		err    error
	}
	ended := make(chan end, 1)
	go func() {
		status, err := res.waiter.wait()
		ended <- end{status, err}
	}()
	select {
	case e := <-ended:
		return e.status, e.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (w *waiter) wait() (unix.WaitStatus, error) {
	if w.parent.pipe != nil {
		var b [4]byte
		if _, err := io.ReadFull(w.parent.pipe, b[:]); err != nil {
			return 0, fmt.Errorf("wait for the pid namespace of process %d: %w", w.root, err)
		}
		return unix.WaitStatus(binary.LittleEndian.Uint32(b[:])), nil
	}
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(w.root, &status, unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for pid %d: %w", w.root, err)
		}
		return status, nil
	}
}

// Signal sends a signal to the root process.
func (res *Result) Signal(sig os.Signal) error {
	s, ok := sig.(unix.Signal)
	if !ok {
		return fmt.Errorf("signal %v: %w", sig, unix.EINVAL)
	}
	return unix.Kill(res.Root, s)
}
