package integration

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// lockedSeize makes the calling goroutine's thread, for good, the tracer of pid.
func lockedSeize(pid int) error {
	runtime.LockOSThread()
	return unix.PtraceSeize(pid)
}
