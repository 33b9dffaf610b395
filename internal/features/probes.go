package features

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// onOwnThread runs f on a thread that ends with it, for calls that change the thread.
func onOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the runtime then ends the thread
		done <- f()
	}()
	return <-done
}

// unshare probes a kind of namespace. For pid and time namespaces only children of the thread would live in it, and it
// has none.
func unshare(flag int, name string) func() error {
	return func() error {
		if _, err := os.Stat("/proc/self/ns/" + name); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%w (/proc/self/ns/%s)", errAbsent, name)
		}
		return onOwnThread(func() error {
			if err := unix.Unshare(flag); err != nil {
				return fmt.Errorf("unshare: %w", absent(err, unix.EINVAL))
			}
			return nil
		})
	}
}

// getOwnFD duplicates a descriptor of this process the way a descriptor of another one is had.
func getOwnFD() error {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", absent(err))
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, pidfd, 0)
	if err != nil {
		return fmt.Errorf("pidfd_getfd: %w", absent(err))
	}
	return unix.Close(fd)
}

// trackBySoftDirty makes the round trip: a write must set bit 55 of the page's entry, 4 to clear_refs must clear it,
// and the next write must set it again. Without CONFIG_MEM_SOFT_DIRTY the write to clear_refs succeeds and does nothing
// (fs/proc/task_mmu.c).
func trackBySoftDirty() error {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map a page: %w", err)
	}
	defer unix.Munmap(page)
	for _, want := range []bool{true, false, true} {
		if want {
			page[0]++
		} else if err := os.WriteFile("/proc/self/clear_refs", []byte("4"), 0); err != nil {
			return fmt.Errorf("clear_refs: %w", err)
		}
		got, err := softDirty(page)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%w (bit 55 of pagemap does not follow writes)", errAbsent)
		}
	}
	return nil
}

func softDirty(page []byte) (bool, error) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return false, err
	}
	defer f.Close()
	entry := make([]byte, 8)
	if _, err := f.ReadAt(entry, int64(address(page)/uint64(os.Getpagesize())*8)); err != nil {
		return false, fmt.Errorf("read pagemap: %w", err)
	}
	return entry[6]>>7 != 0, nil // bit 55
}

// timerIDs switches the mode on and off (prctl(2), Linux 6.15).
func timerIDs() error {
	if err := unix.Prctl(unix.PR_TIMER_CREATE_RESTORE_IDS, unix.PR_TIMER_CREATE_RESTORE_IDS_ON, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl: %w", absent(err, unix.EINVAL))
	}
	return unix.Prctl(unix.PR_TIMER_CREATE_RESTORE_IDS, unix.PR_TIMER_CREATE_RESTORE_IDS_OFF, 0, 0, 0)
}

// tracing runs a probe on a traced child. The child executes this program and is stopped before its first instruction,
// where it is killed.
func tracing(f func(pid int) error) func() error {
	return func() error {
		return onOwnThread(func() error {
			p, err := os.StartProcess("/proc/self/exe", []string{"probe"}, &os.ProcAttr{Sys: traceMe()})
			if err != nil {
				return fmt.Errorf("start a traced child: %w", err)
			}
			defer func() {
				reap(p.Pid)
				_ = p.Release() // the descriptor by which package os knows it
			}()
			var ws unix.WaitStatus
			if _, err := unix.Wait4(p.Pid, &ws, 0, nil); err != nil || !ws.Stopped() {
				return fmt.Errorf("wait for a traced child: status %#x: %w", ws, err)
			}
			return f(p.Pid)
		})
	}
}

func reap(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL) // a traced child that is not waited for cannot be gone
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, 0, nil)
		if err != nil && !errors.Is(err, unix.EINTR) || ws.Exited() || ws.Signaled() {
			return
		}
	}
}

// ownLayout reads the addresses that PR_SET_MM_MAP sets from /proc/self/stat: fields 26 to 28, 45 to 51
// (proc_pid_stat(5)).
func ownLayout() (fields []string, err error) {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return nil, err
	}
	fields = strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 49 {
		return nil, fmt.Errorf("/proc/self/stat has %d fields", len(fields)+2)
	}
	return fields, nil
}
