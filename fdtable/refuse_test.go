package fdtable

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// A refusal is a descriptor that cannot be saved, and the words its error must have.
type refusal struct {
	name  string
	code  fault.Code
	make  func(t *testing.T, dir string) int
	words []string
}

func rawFD(t *testing.T, call uintptr, args ...uintptr) int {
	t.Helper()
	var a [4]uintptr
	copy(a[:], args)
	fd, _, errno := unix.Syscall6(call, a[0], a[1], a[2], a[3], 0, 0)
	if errno != 0 {
		t.Fatalf("system call %d: %v", call, errno)
	}
	return int(fd)
}

func socketOf(family, typ int) func(*testing.T, string) int {
	return func(t *testing.T, _ string) int {
		fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		return fd
	}
}

func fdOf(make func() (int, error)) func(*testing.T, string) int {
	return func(t *testing.T, _ string) int {
		fd, err := make()
		must(t, err)
		return fd
	}
}

func fileAt(path string, flags int) func(*testing.T, string) int {
	return func(t *testing.T, _ string) int { return open(t, path, flags) }
}

var refusals = []refusal{
	{"unix socket", fault.FDSocket, socketOf(unix.AF_UNIX, unix.SOCK_DGRAM), []string{"Unix datagram"}},
	{"tcp socket", fault.FDSocket, listener, []string{"IPv4 TCP", "listening", "127.0.0.1:"}},
	{"udp socket", fault.FDSocket, socketOf(unix.AF_INET6, unix.SOCK_DGRAM), []string{"IPv6 UDP"}},
	{"netlink socket", fault.FDSocket, socketOf(unix.AF_NETLINK, unix.SOCK_RAW), []string{"netlink"}},
	{"socket pair", fault.FDSocket, pair, []string{"Unix stream", "connected"}},
	{
		"fanotify", fault.FDKind, fdOf(func() (int,
			error,
		) {
			return unix.FanotifyInit(unix.FAN_CLOEXEC, unix.O_RDONLY)
		}),
		[]string{"fanotify"},
	},
	{"pidfd", fault.FDKind, fdOf(func() (int, error) { return unix.PidfdOpen(1, 0) }), []string{"pidfd"}},
	{"userfaultfd", fault.FDKind, func(t *testing.T,
		_ string,
	) int {
		return rawFD(t, unix.SYS_USERFAULTFD, unix.O_CLOEXEC)
	}, []string{"userfaultfd"}},
	{"namespace", fault.FDKind, fileAt("/proc/self/ns/mnt", unix.O_RDONLY), []string{"namespace"}},
	{
		"own maps", fault.FDPseudo, fileAt("/proc/self/maps", unix.O_RDONLY),
		[]string{"/maps", "process " + strconv.Itoa(os.Getpid())},
	},
	{
		"own directory in proc", fault.FDPseudo, fileAt("/proc/self/task", unix.O_RDONLY|unix.O_DIRECTORY),
		[]string{"/task"},
	},
	{"path in proc", fault.FDPseudo, fileAt("/proc/self/maps", unix.O_PATH), []string{"/maps"}},
	{
		"writable sysfs", fault.FDPseudo, fileAt("/sys/kernel/mm/transparent_hugepage/enabled", unix.O_RDWR),
		[]string{"sysfs", "writing"},
	},
	{"kernel messages", fault.FDDevice, fileAt("/dev/kmsg", unix.O_RDONLY), []string{"/dev/kmsg", "1:11"}},
	{
		"pseudo-terminal master", fault.FDDevice, fileAt("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY),
		[]string{"pseudo-terminal"},
	},
	{"hard link elsewhere", fault.FDDeleted, func(t *testing.T, dir string) int {
		must(t, os.Mkdir(filepath.Join(dir, "far"), 0o700))
		fd := file(t, dir, "linked", unix.O_RDONLY)
		must(t, os.Rename(filepath.Join(dir, "file"), filepath.Join(dir, "near")))
		must(t, os.Link(filepath.Join(dir, "near"), filepath.Join(dir, "far", "away")))
		must(t, os.Remove(filepath.Join(dir, "near")))
		return fd
	}, []string{"hard link"}},
	{"lease", fault.FDLease, func(t *testing.T, dir string) int {
		fd := file(t, dir, "leased", unix.O_RDONLY)
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
		must(t, err)
		return fd
	}, []string{"lease"}},
	{"dnotify", fault.FDNotify, func(t *testing.T, dir string) int {
		fd := open(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
		const dnMultishot, dnCreate = 0x80000000, 4
		// F_NOTIFY alone shows as an owner only if the main thread calls it; from others its signals go nowhere.
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETSIG, int(unix.SIGUSR1))
		must(t, err)
		_, err = unix.FcntlInt(uintptr(fd), unix.F_NOTIFY, dnMultishot|dnCreate)
		must(t, err)
		return fd
	}, []string{"F_NOTIFY"}},
	{"pipe with another process", fault.FDPipe, pipeOutside, []string{"pipe:[", "sleep"}},
	{"FIFO with content and no reader", fault.FDState, unreadFIFO, []string{"6 bytes", "fifo"}},
	{"unread inotify events", fault.FDState, func(t *testing.T, dir string) int {
		fd := watching(t, dir, dir)[0]
		must(t, os.WriteFile(filepath.Join(dir, "new"), nil, 0o600))
		return fd
	}, []string{"not been read"}},
	{"watch of a removed file", fault.FDState, func(t *testing.T, dir string) int {
		path := filepath.Join(dir, "file")
		keepOpen := file(t, dir, "", unix.O_RDONLY)
		t.Cleanup(func() { _ = unix.Close(keepOpen) })
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		must(t, err)
		_, err = unix.InotifyAddWatch(fd, path, unix.IN_ACCESS)
		must(t, err)
		must(t, os.Remove(path))
		return fd
	}, []string{"no longer leads to it"}},
	{"epoll of something closed", fault.FDState, func(t *testing.T, _ string) int {
		fds := watched(t, 0)
		t.Cleanup(func() { _ = unix.Close(fds[2]) })
		dup, err := unix.Dup(fds[1])
		must(t, err)
		t.Cleanup(func() { _ = unix.Close(dup) })
		must(t, unix.Close(fds[1]))
		return fds[0]
	}, []string{"has been closed"}},
	{"epoll one-shot fired", fault.FDState, func(t *testing.T, _ string) int {
		fds := watched(t, unix.EPOLLONESHOT)
		t.Cleanup(func() { _, _ = unix.Close(fds[1]), unix.Close(fds[2]) })
		n, err := unix.EpollWait(fds[0], make([]unix.EpollEvent, 1), 0)
		if n != 1 {
			t.Fatalf("%d events (%v)", n, err)
		}
		return fds[0]
	}, []string{"one-shot"}},
	{"shared timerfd", fault.FDState, func(t *testing.T, _ string) int {
		fd := timerWith(unix.CLOCK_MONOTONIC, 0, 0, 0)(t, "")[0]
		other, err := unix.Dup(fd)
		must(t, err)
		f := os.NewFile(uintptr(other), "timerfd")
		sleeper(t, f)
		must(t, f.Close())
		return fd
	}, []string{"sleep", "outside the tree"}},
	{"foreign owner", fault.FDState, func(t *testing.T, _ string) int {
		fds := pipeWith(0, "")(t, "")
		t.Cleanup(func() { _ = unix.Close(fds[1]) })
		_, err := unix.FcntlInt(uintptr(fds[0]), unix.F_SETOWN, os.Getppid())
		must(t, err)
		return fds[0]
	}, []string{"process " + strconv.Itoa(os.Getppid())}},
}

func listener(t *testing.T, _ string) int {
	fd := socketOf(unix.AF_INET, unix.SOCK_STREAM)(t, "")
	must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, unix.Listen(fd, 1))
	return fd
}

func pair(t *testing.T, _ string) int {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fds[1]) })
	return fds[0]
}

// sleeper starts a process that holds f and ends with the test. It returns its pid.
// It is not our descendant: those count as the tree's.
func sleeper(t *testing.T, f *os.File) int {
	t.Helper()
	cmd := exec.Command("sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!")
	cmd.ExtraFiles = []*os.File{f}
	out, err := cmd.Output()
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	must(t, err)
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) })
	// The shell is done before its child is: that has yet to execute sleep, and the one of busybox to take that name.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		must(t, err)
		if string(comm) == "sleep\n" {
			return pid
		}
		if time.Now().After(end) {
			t.Fatalf("it is %q, not sleep", comm)
		}
	}
}

// unreadFIFO is a FIFO with content that nobody has open for reading any more.
func unreadFIFO(t *testing.T, dir string) int {
	path := filepath.Join(dir, "fifo")
	must(t, unix.Mkfifo(path, 0o600))
	r := open(t, path, unix.O_RDONLY|unix.O_NONBLOCK)
	w := open(t, path, unix.O_WRONLY)
	_, err := unix.Write(w, []byte("unread"))
	must(t, err)
	must(t, unix.Close(r))
	return w
}

func pipeOutside(t *testing.T, _ string) int {
	r, w, err := os.Pipe()
	must(t, err)
	sleeper(t, w)
	must(t, w.Close())
	fd, err := unix.Dup(int(r.Fd()))
	must(t, err)
	must(t, r.Close())
	return fd
}

func TestRefusals(t *testing.T) {
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			fd := r.make(t, t.TempDir())
			defer func() { _ = unix.Close(fd) }()
			_, faults := captured(t, fd)
			if len(faults) != 1 {
				t.Fatalf("%d faults, want 1: %v", len(faults), faults)
			}
			object := "fd " + strconv.Itoa(fd) + " of pid " + strconv.Itoa(os.Getpid())
			mustFault(t, faults[0], r.code, append(r.words, object)...)
		})
	}
}

// All blockers are found in one go.
func TestRefusesAllAtOnce(t *testing.T) {
	a := fdOf(func() (int, error) { return unix.PidfdOpen(1, 0) })(t, "")
	b := pair(t, "")
	c := open(t, "/proc/self/maps", unix.O_RDONLY)
	_, faults := captured(t, a, b, c)
	if len(faults) != 3 {
		t.Errorf("%d faults, want 3: %v", len(faults), faults)
	}
	for _, fd := range []int{a, b, c} {
		_ = unix.Close(fd)
	}
}
