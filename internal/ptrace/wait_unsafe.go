package ptrace

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// siginfoStatus is the index of si_status in a siginfo_t of SIGCHLD taken as 32-bit words (asm-generic/siginfo.h).
const siginfoStatus = 6

// collect is wait4(2) for one thread, with __WALL. The pid is 0 if there is nothing to tell and flags has WNOHANG.
//
// The death of a child of our own process is told but not taken: waits of all our threads take from the same children
// (wait4(2), __WNOTHREAD), and the exit status is for whoever started the child. Of everybody else the death must be
// taken by the tracer, or the parent never hears of it.
func (th *Thread) collect(flags int) (pid int, status unix.WaitStatus, err error) {
	if th.Tid != th.Pid { // a thread that is not the leader has no parent that waits for it
		pid, err = unix.Wait4(th.Tid, &status, unix.WALL|flags, nil)
		return pid, status, err
	}
	for {
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, th.Tid, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT|unix.WALL|flags,
			nil); err != nil {
			return 0, 0, err
		}
		if info.Signo == 0 {
			return 0, 0, nil
		}
		if st, ended := endOf(&info); ended {
			if ourChild(th.Pid) {
				return th.Tid, st, nil
			}
			pid, err = unix.Wait4(th.Tid, &status, unix.WALL, nil)
			return pid, status, err
		}
		info = unix.Siginfo{}
		if err := unix.Waitid(unix.P_PID, th.Tid, &info, unix.WSTOPPED|unix.WNOHANG|unix.WALL, nil); err != nil {
			return 0, 0, err
		}
		if info.Signo != 0 { // else it was killed in between
			return th.Tid, unix.WaitStatus(statusIn(&info)<<8 | 0x7f), nil
		}
	}
}

// endOf is the wait status of a process that has ended, from what waitid(2) tells of it.
func endOf(info *unix.Siginfo) (status unix.WaitStatus, ended bool) {
	const exited, killed, dumped = 1, 2, 3 // CLD_EXITED, CLD_KILLED, CLD_DUMPED
	switch info.Code {
	case exited:
		return unix.WaitStatus(statusIn(info) << 8), true
	case killed:
		return unix.WaitStatus(statusIn(info)), true
	case dumped:
		return unix.WaitStatus(statusIn(info) | 0x80), true
	}
	return 0, false
}

// statusIn is si_status: an exit status, the signal of a death, or that of a stop with the ptrace event above it.
func statusIn(info *unix.Siginfo) uint32 {
	return (*[unsafe.Sizeof(*info) / 4]uint32)(unsafe.Pointer(info))[siginfoStatus]
}

// ourChild reports whether a process that has ended but is not reaped has this process as its parent (field 4 of
// proc_pid_stat(5)).
func ourChild(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	return len(fields) > 1 && string(fields[1]) == strconv.Itoa(os.Getpid())
}
