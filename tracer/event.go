package tracer

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
)

// Event is one change of state of a followed process, as `bpfckpt watch` shows it. Which fields are set depends on
// Kind.
type Event struct {
	Time int64  `json:"time"`  // CLOCK_MONOTONIC when the watch took it, with all that was there then, ns
	Kind string `json:"event"` // the system call, or fork, thread, exec, exit, dlopen, dlclose, lost
	Pid  int    `json:"pid"`
	Tid  int    `json:"tid,omitempty"`
	Ret  int64  `json:"ret,omitempty"` // result, if it is neither 0 nor told by another field

	Addr    uint64  `json:"addr,omitempty"` // mappings; handler of a signal; handle of a library
	Len     uint64  `json:"len,omitempty"`
	Old     uint64  `json:"old,omitempty"` // mremap: old address
	OldLen  uint64  `json:"old_len,omitempty"`
	Prot    string  `json:"prot,omitempty"` // "rw-p"
	Advice  int     `json:"advice,omitempty"`
	FD      *int    `json:"fd,omitempty"`
	From    *int    `json:"from,omitempty"` // dup: the descriptor it was made of
	Cloexec bool    `json:"cloexec,omitempty"`
	Flags   uint32  `json:"flags,omitempty"`    // open(2) flags; flags of an action
	Path    string  `json:"path,omitempty"`     // as given
	Opened  string  `json:"resolved,omitempty"` // where it led
	Signal  int     `json:"signal,omitempty"`
	Limit   string  `json:"limit,omitempty"` // name of the resource
	Cur     uint64  `json:"cur,omitempty"`
	Max     uint64  `json:"max,omitempty"`
	Child   int     `json:"child,omitempty"`
	Comm    string  `json:"comm,omitempty"`
	Status  string  `json:"status,omitempty"` // how a process ended: "exit 0", "signal 9"
	Count   uint64  `json:"count,omitempty"`  // records lost
	Args    []int64 `json:"args,omitempty"`   // of calls with no fields of their own
}

// String is the event as one line for people.
func (e *Event) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d/%d %s", e.Pid, e.Tid, e.Kind)
	add := func(ok bool, format string, args ...any) {
		if ok {
			fmt.Fprintf(&b, " "+format, args...)
		}
	}
	if e.FD != nil {
		add(true, "%d", *e.FD)
	}
	if e.From != nil {
		add(true, "of %d", *e.From)
	}
	add(e.Old != 0, "%#x+%#x ->", e.Old, e.OldLen)
	add(e.Signal != 0, "%d", e.Signal)
	add(e.Addr != 0 || e.Len != 0, "%#x+%#x", e.Addr, e.Len)
	add(e.Prot != "", "%s", e.Prot)
	add(e.Path != "", "%q", e.Path)
	add(e.Opened != "" && e.Opened != e.Path, "-> %s", e.Opened)
	add(e.Limit != "", "%s %d of %d", e.Limit, e.Cur, e.Max)
	add(e.Child != 0, "%d", e.Child)
	add(e.Comm != "", "(%s)", e.Comm)
	add(e.Status != "", "%s", e.Status)
	add(e.Count != 0, "%d", e.Count)
	add(len(e.Args) > 0, "%v", e.Args)
	return b.String()
}

// callNames are the names of the calls that are told of.
var callNames = map[uint16]string{
	unix.SYS_MMAP: "mmap", unix.SYS_MUNMAP: "munmap", unix.SYS_MREMAP: "mremap", unix.SYS_MPROTECT: "mprotect",
	unix.SYS_BRK:     "brk",
	unix.SYS_MADVISE: "madvise", unix.SYS_OPENAT: "openat", unix.SYS_OPENAT2: "openat2",
	unix.SYS_CLOSE: "close", unix.SYS_CLOSE_RANGE: "close_range", unix.SYS_DUP: "dup",
	unix.SYS_DUP3:  "dup3",
	unix.SYS_FCNTL: "fcntl", unix.SYS_IOCTL: "ioctl", unix.SYS_PIPE2: "pipe2",
	unix.SYS_SOCKET:     "socket",
	unix.SYS_SOCKETPAIR: "socketpair", unix.SYS_ACCEPT: "accept", unix.SYS_ACCEPT4: "accept4",
	unix.SYS_EPOLL_CREATE1: "epoll_create1", unix.SYS_EPOLL_CTL: "epoll_ctl",
	unix.SYS_EVENTFD2:       "eventfd2",
	unix.SYS_TIMERFD_CREATE: "timerfd_create", unix.SYS_SIGNALFD4: "signalfd4",
	unix.SYS_INOTIFY_INIT1:     "inotify_init1",
	unix.SYS_INOTIFY_ADD_WATCH: "inotify_add_watch",
	unix.SYS_INOTIFY_RM_WATCH:  "inotify_rm_watch", unix.SYS_MEMFD_CREATE: "memfd_create",
	unix.SYS_IO_URING_SETUP: "io_uring_setup",
	unix.SYS_RT_SIGACTION:   "rt_sigaction", unix.SYS_RT_SIGPROCMASK: "rt_sigprocmask",
	unix.SYS_SIGALTSTACK: "sigaltstack",
	unix.SYS_SETRLIMIT:   "setrlimit", unix.SYS_PRLIMIT64: "prlimit64", unix.SYS_CHDIR: "chdir",
	unix.SYS_FCHDIR: "fchdir",
	unix.SYS_CHROOT: "chroot", unix.SYS_UMASK: "umask", unix.SYS_PRCTL: "prctl", unix.SYS_MLOCK: "mlock",
	unix.SYS_MUNLOCK:  "munlock",
	unix.SYS_MLOCKALL: "mlockall", unix.SYS_MUNLOCKALL: "munlockall", unix.SYS_MLOCK2: "mlock2",
	unix.SYS_MBIND: "mbind",
	unix.SYS_SHMAT: "shmat", unix.SYS_SHMDT: "shmdt", unix.SYS_RECVMSG: "recvmsg", unix.SYS_RECVMMSG: "recvmmsg",
	unix.SYS_SETPGID: "setpgid",
	unix.SYS_SETSID:  "setsid", unix.SYS_PERSONALITY: "personality", unix.SYS_UNSHARE: "unshare",
	unix.SYS_SETNS:      "setns",
	unix.SYS_PIVOT_ROOT: "pivot_root", unix.SYS_USERFAULTFD: "userfaultfd", unix.SYS_PIDFD_OPEN: "pidfd_open",
	unix.SYS_PIDFD_GETFD:     "pidfd_getfd",
	unix.SYS_PERF_EVENT_OPEN: "perf_event_open", unix.SYS_BPF: "bpf", unix.SYS_SECCOMP: "seccomp",
	unix.SYS_FANOTIFY_INIT:     "fanotify_init",
	unix.SYS_OPEN_BY_HANDLE_AT: "open_by_handle_at", unix.SYS_OPEN_TREE: "open_tree", unix.SYS_FSOPEN: "fsopen",
	unix.SYS_FSMOUNT: "fsmount",
	unix.SYS_FSPICK:  "fspick", unix.SYS_MQ_OPEN: "mq_open", unix.SYS_MEMFD_SECRET: "memfd_secret",
	unix.SYS_PKEY_MPROTECT:    "pkey_mprotect",
	unix.SYS_REMAP_FILE_PAGES: "remap_file_pages", unix.SYS_PROCESS_MADVISE: "process_madvise", unix.SYS_MSEAL: "mseal",
	unix.SYS_LANDLOCK_CREATE_RULESET: "landlock_create_ruleset",
	unix.SYS_SET_MEMPOLICY_HOME_NODE: "set_mempolicy_home_node",
	unix.SYS_MAP_SHADOW_STACK:        "map_shadow_stack", 0: "signal",
}

func callName(nr uint16) string {
	if name, ok := callNames[nr]; ok {
		return name
	}
	if name, ok := oldNames[nr]; ok {
		return name
	}
	return fmt.Sprintf("syscall_%d", nr)
}

var limitNames = [16]string{
	"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending",
	"msgqueue", "nice", "rtprio", "rttime",
}

// tell hands an event out.
func (w *Watcher) tell(head *bpf.WatchEvHead, e *Event) {
	e.Time, e.Pid, e.Tid = w.took, int(head.Pid), int(head.Tid)
	w.opts.OnEvent(e)
}

func (w *Watcher) tellMap(r *mapChange) {
	if w.opts.OnEvent == nil {
		return
	}
	a := r.Args
	e := &Event{Kind: callName(r.Head.Nr)}
	switch r.Head.Nr {
	case unix.SYS_MMAP:
		e.Addr, e.Len, e.Prot = uint64(r.Head.Ret), a[1], protText(a[2], a[3]&unix.MAP_SHARED != 0)
		if r.Head.Ret < 0 && r.Head.Ret > -4096 {
			e.Addr, e.Ret = a[0], r.Head.Ret
		}
		if r.Vma.File != 0 {
			e.Path = w.mappedPath(int(r.Head.Pid), r)
		}
	case unix.SYS_MREMAP:
		e.Old, e.OldLen, e.Addr, e.Len = a[0], a[1], uint64(r.Head.Ret), a[2]
	case unix.SYS_BRK:
		e.Addr = uint64(r.Head.Ret)
	case unix.SYS_MPROTECT:
		e.Addr, e.Len, e.Prot, e.Ret = a[0], a[1], protText(a[2], false)[:3], r.Head.Ret
	case unix.SYS_MADVISE:
		e.Addr, e.Len, e.Advice, e.Ret = a[0], a[1], int(a[2]), r.Head.Ret
	default:
		e.Addr, e.Len, e.Ret = a[0], a[1], r.Head.Ret
	}
	w.tell(&r.Head, e)
}

// mappedPath finds the path of the file of a new mapping: that of a descriptor that led to it, or what /proc says.
func (w *Watcher) mappedPath(pid int, r *mapChange) string {
	key := fileKey{r.inode.Dev, r.inode.Ino}
	f := w.table.mapped[key]
	if f.path == "" && r.inode.Sflags&sbKernMount == 0 {
		f.path = w.link(pid, fmt.Sprintf("map_files/%x-%x", r.Vma.Start, r.Vma.End))
		w.table.mapped[key] = f
	}
	return f.path
}

func protText(prot uint64, shared bool) string {
	b := []byte("---p")
	for i, c := range "rwx" {
		if prot&(1<<i) != 0 {
			b[i] = byte(c)
		}
	}
	if shared {
		b[3] = 's'
	}
	return string(b)
}

func (w *Watcher) tellFD(g *group, r *bpf.WatchEvFd, given string) {
	if w.opts.OnEvent == nil {
		return
	}
	fd := int(r.Fd)
	e := &Event{
		Kind: callName(r.Head.Nr), FD: &fd, Flags: r.Flags,
		Cloexec: r.Bits&uint32(bpf.WatchFdBitFD_CLOEXEC) != 0, Path: given,
	}
	switch nr := r.Head.Nr; {
	case nr == unix.SYS_DUP, nr == unix.SYS_DUP3, isDup2(nr), nr == unix.SYS_FCNTL && int(r.Args[0]) != fd:
		e.From = new(int(r.Args[0]))
	}
	if s, ok := g.fds[fd]; ok {
		e.Opened = w.table.files[s.file].resolved
	}
	w.tell(&r.Head, e)
}

func (w *Watcher) tellAction(r *bpf.WatchEvAction) {
	if w.opts.OnEvent != nil {
		w.tell(&r.Head, &Event{
			Kind: callName(r.Head.Nr), Signal: int(r.Signal), Addr: r.Action.Handler,
			Flags: uint32(r.Action.Flags),
		})
	}
}

func (w *Watcher) tellLimit(r *bpf.WatchEvLimit) {
	if w.opts.OnEvent != nil {
		w.tell(&r.Head, &Event{
			Kind: callName(r.Head.Nr), Limit: limitNames[r.Resource], Cur: r.Limit.Cur,
			Max: r.Limit.Max,
		})
	}
}

func (w *Watcher) tellCall(g *group, r *bpf.WatchEvCall, name string) {
	if w.opts.OnEvent == nil {
		return
	}
	e := &Event{Kind: callName(r.Head.Nr), Ret: r.Head.Ret, Path: name}
	switch r.Head.Nr {
	case unix.SYS_CHDIR, unix.SYS_FCHDIR:
		e.Opened = g.cwd
	case unix.SYS_CHROOT:
	default:
		for _, a := range r.Args[:3] {
			e.Args = append(e.Args, int64(a))
		}
	}
	w.tell(&r.Head, e)
}

func (w *Watcher) tellTask(r *bpf.WatchEvTask) {
	if w.opts.OnEvent == nil {
		return
	}
	e := &Event{Comm: cstring(r.Comm[:])}
	switch bpf.WatchEvKind(r.Head.Kind) {
	case bpf.WatchEvKindEV_FORK:
		e.Kind, e.Child = "fork", int(r.ChildPid)
		if bpf.WatchShareBit(r.Bits)&bpf.WatchShareBitSHARE_GROUP != 0 {
			e.Kind, e.Child = "thread", int(r.ChildTid)
		}
	case bpf.WatchEvKindEV_EXEC:
		e.Kind, e.Path = "exec", w.link(int(r.Head.Pid), "exe")
	case bpf.WatchEvKindEV_EXIT:
		e.Kind = "thread_exit"
		if bpf.WatchShareBit(r.Bits)&bpf.WatchShareBitGROUP_DEAD != 0 {
			e.Kind, e.Status = "exit", statusText(unix.WaitStatus(r.Status))
		}
	}
	w.tell(&r.Head, e)
}

func (w *Watcher) tellLost(n uint64) {
	if w.opts.OnEvent != nil {
		w.tell(&bpf.WatchEvHead{Pid: int32(w.root)}, &Event{Kind: "lost", Count: n})
	}
}

func statusText(s unix.WaitStatus) string {
	if s.Signaled() {
		return fmt.Sprintf("signal %d", s.Signal())
	}
	return fmt.Sprintf("exit %d", s.ExitStatus())
}
