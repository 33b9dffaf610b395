package lazy

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// guardPlan is all that the guard uses, made before it exists: it cannot allocate.
type guardPlan struct {
	watch      pollFD // the pidfd of the server
	name       *byte
	path       *byte
	argv, envp **byte
	victims    []int32 // pidfds of the restored processes, for when nothing else is left
	mask       uint64
}

// pollFD is struct pollfd.
type pollFD struct {
	fd              int32
	events, revents int16
}

// startGuard makes the guard: a process that shares our table of descriptors (CLONE_FILES), not a copy of it, so that
// what we open later is the guard's as well, and stays open when we die. It is a copy of this process that never
// returns from guardMain.
func startGuard(p *guardPlan) (pid int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A signal must not run a handler of the Go runtime in the copy, which has no other thread.
	all := ^uint64(0)
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)),
		uintptr(unsafe.Pointer(&p.mask)), 8, 0, 0)
	r, errno := forkGuard(p)
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&p.mask)), 0, 8, 0, 0)
	if errno != 0 {
		return 0, fmt.Errorf("start the guard: %w", errno)
	}
	return int(r), nil
}

//go:noinline
//go:norace
//go:nosplit
func forkGuard(p *guardPlan) (pid uintptr, errno unix.Errno) {
	r, _, e := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_FILES|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if r != 0 || e != 0 {
		return r, e
	}
	guardMain(p)
	return 0, 0
}

// guardMain waits for the death of the server and then executes this program anew, as the orphanage, with all
// userfaultfds that the server had. It must neither allocate nor grow the stack: there is no runtime under it.
//
//go:noinline
//go:norace
//go:nosplit
func guardMain(p *guardPlan) {
	unix.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(p.name)), 0)
	for {
		n, _, _ := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p.watch)), 1, 0, 0, 0, 0)
		if n == 1 && p.watch.revents != 0 {
			break
		}
	}
	unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(p.path)), uintptr(unsafe.Pointer(p.argv)),
		uintptr(unsafe.Pointer(p.envp)))
	// It could not be executed. The processes must not go on, and nobody must see a page that never came.
	for i := 0; i < len(p.victims); i++ {
		unix.RawSyscall6(unix.SYS_PIDFD_SEND_SIGNAL, uintptr(p.victims[i]), uintptr(unix.SIGKILL), 0, 0, 0, 0)
	}
	for {
		unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

// strings0 makes a NULL-terminated array of C strings.
func strings0(list []string) (**byte, error) {
	ptrs := make([]*byte, 0, len(list)+1)
	for _, s := range list {
		b, err := unix.BytePtrFromString(s)
		if err != nil {
			return nil, err
		}
		ptrs = append(ptrs, b)
	}
	return unsafe.SliceData(append(ptrs, nil)), nil
}
