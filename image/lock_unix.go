//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package image

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes an exclusive flock(2) on f without waiting. It ends when f is closed, also by the death of the process.
func tryLock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// share takes a shared flock(2) on a data file: nobody makes holes in it while it is being read. Without one the worst
// is that a reader finds a frame damaged that was taken away.
func share(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) }
