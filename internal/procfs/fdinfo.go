package procfs

import (
	"io"
	"strconv"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// FDInfo is /proc/PID/fdinfo/FD (fs/proc/fd.c, seq_show).
type FDInfo struct {
	Pos   int64
	Flags uint32 // open(2) flags and access mode, O_CLOEXEC included if the descriptor has FD_CLOEXEC
	MntID int
	Ino   uint64 // 0 before Linux 5.14
	Locks []FDLock
	Kind  string // what the further lines say the file is, "" for none: a file, directory, pipe, device, socket, memfd
	Lines []Line // the further lines, in order, as printed
}

// FDLock is a "lock:" line of fdinfo (fs/locks.c, lock_get_status): a lock held through this descriptor's description
// or by its process.
type FDLock struct {
	Type  string // "FLOCK", "POSIX", "OFDLCK", "ACCESS" (mandatory, before 5.15), "LEASE", "DELEG"
	Mode  string // "READ", "WRITE", "UNLCK"; the state of a lease precedes it: "ACTIVE READ"
	Pid   int    // -1 for OFDLCK
	Major uint32
	Minor uint32
	Ino   uint64
	Start int64
	End   int64 // inclusive, -1 for EOF
}

// fdinfoKinds tells which kind of file prints a key. Kinds are those of the kernel functions named; a key that is not
// here is refused.
var fdinfoKinds = map[string]string{
	"eventfd-count": "eventfd", "eventfd-id": "eventfd", "eventfd-semaphore": "eventfd", // fs/eventfd.c
	"tfd":     "epoll",    // fs/eventpoll.c
	"sigmask": "signalfd", // fs/signalfd.c
	"inotify": "inotify", "inotify wd": "inotify", "fanotify flags": "fanotify", "fanotify ino": "fanotify",
	"fanotify sdev":   "fanotify",
	"fanotify mnt_id": "fanotify", "fanotify mnt_ns": "fanotify", // fs/notify/fdinfo.c
	// fs/timerfd.c
	"clockid": "timerfd", "ticks": "timerfd", "settime flags": "timerfd", "it_value": "timerfd",
	"it_interval": "timerfd",
	"Pid":         "pidfd", "NSpid": "pidfd", // fs/pidfs.c
	"tty-index": "tty",                                                       // drivers/tty/pty.c
	"scm_fds":   "socket",                                                    // net/unix/af_unix.c
	"pending":   "userfaultfd", "total": "userfaultfd", "API": "userfaultfd", // fs/userfaultfd.c
	"size": "dma-buf", "count": "dma-buf", "exp_name": "dma-buf", "name": "dma-buf", // drivers/dma-buf/dma-buf.c
	// kernel/bpf/syscall.c
	"prog_type": "bpf", "map_type": "bpf", "link_type": "bpf", "btf_id": "bpf", "token_info": "bpf",
	"SqMask": "io_uring", "SqHead": "io_uring", "SqTail": "io_uring", "CachedSqHead": "io_uring", "CqMask": "io_uring",
	"CqHead": "io_uring",
	// io_uring/fdinfo.c
	"CqTail": "io_uring", "CachedCqTail": "io_uring", "SQEs": "io_uring", "CQEs": "io_uring", "SqThread": "io_uring",
}

// FDInfo parses the fdinfo of a descriptor.
func (d Dir) FDInfo(fd int) (FDInfo, error) {
	name := "fdinfo/" + strconv.Itoa(fd)
	info, err := parse(d, name, ParseFDInfo)
	if f, ok := err.(*fault.Error); ok && (f.Code == fault.FDInfoKey || f.Code == fault.ProcFormat) {
		f.Object = "fd " + strconv.Itoa(fd) + " of " + d.object()
	}
	return info, err
}

// ParseFDInfo parses proc_pid_fdinfo(5). The lines of a kind that prints free text (bpf, io_uring, drm) are taken whole
// once its first key has told the kind; any other unknown key is fault.FDInfoKey.
func ParseFDInfo(r io.Reader) (FDInfo, error) {
	info := FDInfo{MntID: -1}
	seen := 0
	err := lines(r, func(line string) error {
		key, value, ok := strings.Cut(line, ":")
		text := strings.TrimSpace(value)
		switch {
		case !ok:
			return info.special(line, "", "")
		case seen < 4 && key == [4]string{"pos", "flags", "mnt_id", "ino"}[seen]:
			seen++
			return info.common(key, text)
		case key == "lock":
			return info.lock(text)
		default:
			return info.special(line, key, value)
		}
	})
	if err == nil && seen < 3 {
		err = unknown("fdinfo", "pos, flags and mnt_id are not there")
	}
	return info, err
}

func (info *FDInfo) common(key, text string) (err error) {
	ok := true
	switch key {
	case "pos":
		info.Pos, err = strconv.ParseInt(text, 10, 64)
	case "flags":
		ok = base(text, 8, &info.Flags)
	case "mnt_id":
		ok = decimal(text, &info.MntID)
	case "ino":
		ok = base(text, 10, &info.Ino)
	}
	if err != nil || !ok {
		return unknown("fdinfo", "unknown value %q of %s", text, key)
	}
	return nil
}

// freeText are the kinds whose further lines are not "key: value" or have keys of their driver.
var freeText = map[string]bool{
	"bpf": true, "io_uring": true, "drm": true, "inotify": true, "fanotify": true,
	"epoll": true,
}

// special takes a line that only one kind of file prints.
func (info *FDInfo) special(line, key, value string) error {
	kind, known := fdinfoKinds[key]
	switch {
	case !known && strings.HasPrefix(key, "drm-"): // Documentation/gpu/drm-usage-stats.rst
		kind, known = "drm", true
	case !known && strings.HasPrefix(key, "fanotify "):
		kind, known = "fanotify", true
	}
	if info.Kind == "" {
		info.Kind = kind
	}
	if info.Kind == "" || !freeText[info.Kind] && (!known || kind != info.Kind) {
		return &errFormat{code: fault.FDInfoKey, file: "fdinfo", cause: "unknown line " + strconv.Quote(line)}
	}
	if key == "" {
		key, value = "", line
	}
	info.Lines = append(info.Lines, Line{Key: key, Value: strings.TrimSpace(value)})
	return nil
}

// lock parses "1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF".
func (info *FDInfo) lock(text string) error {
	bad := func() error { return unknown("fdinfo", "unknown lock %q", text) }
	f := strings.Fields(text)
	if len(f) != 8 {
		return bad()
	}
	l := FDLock{Type: f[1], Mode: f[3], End: -1}
	switch l.Type {
	case "FLOCK", "POSIX", "OFDLCK", "ACCESS":
		if f[2] != "ADVISORY" && f[2] != "MANDATORY" && f[2] != "MSNFS" {
			return bad()
		}
	case "LEASE", "DELEG":
		l.Mode = f[2] + " " + f[3]
	default:
		return bad()
	}
	device := strings.Split(f[5], ":")
	if len(device) != 3 || !decimal(f[4], &l.Pid) || !base(device[0], 16, &l.Major) || !base(device[1], 16, &l.Minor) ||
		!base(device[2], 10, &l.Ino) {
		return bad()
	}
	var err error
	if l.Start, err = strconv.ParseInt(f[6], 10, 64); err != nil {
		return bad()
	}
	if f[7] != "EOF" {
		if l.End, err = strconv.ParseInt(f[7], 10, 64); err != nil {
			return bad()
		}
	}
	info.Locks = append(info.Locks, l)
	return nil
}
