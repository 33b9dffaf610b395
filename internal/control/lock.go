package control

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lock is a locked file. The kernel drops the lock however the holder ends.
type lock struct{ f *os.File }

// errLocked says that somebody else holds a lock.
var errLocked = errors.New("it is locked")

// takeLock locks a file, which it makes if it is not there, without waiting.
func takeLock(path string) (*lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := ofd(f, unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
			f.Close()
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
				return nil, errLocked
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// Whoever had it may have removed the file after we opened it, and another be there now.
		var ours, there unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &ours); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if unix.Lstat(path, &there) == nil && ours.Dev == there.Dev && ours.Ino == there.Ino {
			return &lock{f}, nil
		}
		f.Close()
	}
}

// locked tells whether somebody holds the lock of a file.
func locked(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK}
	return ofd(f, unix.F_OFD_GETLK, &l) == nil && l.Type != unix.F_UNLCK
}

// ofd does something to the lock of an open file description, over the whole file (fcntl(2)).
func ofd(f *os.File, cmd int, l *unix.Flock_t) error {
	for {
		if err := unix.FcntlFlock(f.Fd(), cmd, l); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// release removes the file and ends the lock.
func (l *lock) release() {
	_ = os.Remove(l.f.Name()) // first: nobody else removes one that a later holder has made
	_ = l.f.Close()
}
