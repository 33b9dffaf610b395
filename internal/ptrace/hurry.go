package ptrace

import (
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// hurried is the nice value of threads that a stopped process waits for. On a busy machine they would else stand in
// line with everybody, and the process with them.
const hurried = -20

// Hurry lets the calling goroutine run before others, if we have the right to that (CAP_SYS_NICE), until the function
// it returns is called, by the same goroutine; more than once does no harm.
func Hurry() (calm func()) {
	runtime.LockOSThread()
	tid := unix.Gettid()
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid) // 20 less the nice value (getpriority(2))
	if err == nil {
		err = unix.Setpriority(unix.PRIO_PROCESS, tid, hurried)
	}
	return sync.OnceFunc(func() {
		if err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, tid, 20-raw) // raising the value is always allowed
		}
		runtime.UnlockOSThread()
	})
}

// Hurry is Hurry for the tracing thread, for good.
func (t *Tracer) Hurry() {
	// without it all works as well
	_ = t.Do(func() error { return unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), hurried) })
}
