package ptrace

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// TakeFD duplicates a descriptor of another process into this one, close-on-exec (pidfd_getfd(2), Linux 5.6). The
// rights needed are those of ptrace; the process may run.
func TakeFD(pid, theirs int) (int, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, theirs, 0)
	if err != nil {
		return -1, fmt.Errorf("pidfd_getfd: %w", err)
	}
	return fd, nil
}
