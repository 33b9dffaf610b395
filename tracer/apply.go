package tracer

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/model"
)

// apply brings one record of the ring into the table.
func (w *Watcher) apply(b []byte) {
	head := recordOf[bpf.WatchEvHead](b)
	if head == nil {
		return
	}
	g := w.table.groups[int(head.Pid)]
	switch bpf.WatchEvKind(head.Kind) {
	case bpf.WatchEvKindEV_MAP:
		e := mapChangeOf(b)
		w.table.mapEvent(&e)
		if mapsCode(&e) {
			w.code.due[int(head.Pid)] = true
		}
		w.tellMap(&e)
		return
	case bpf.WatchEvKindEV_FORK, bpf.WatchEvKindEV_EXEC, bpf.WatchEvKindEV_EXIT:
		w.applyTask(recordOf[bpf.WatchEvTask](b))
		return
	case bpf.WatchEvKindEV_DL:
		w.applyDL(g, recordOf[bpf.WatchEvNamed](b))
		return
	case bpf.WatchEvKindEV_RELEASE:
		select {
		case w.released <- struct{}{}:
		default: // it was told already
		}
		return
	}
	if g == nil {
		return // it has ended, or its birth was lost; then it is found and read with the next repair
	}
	switch bpf.WatchEvKind(head.Kind) {
	case bpf.WatchEvKindEV_FD:
		e := recordOf[bpf.WatchEvFd](b)
		w.table.fdEvent(g, e)
		w.tellFD(g, e, "")
	case bpf.WatchEvKindEV_OPEN:
		e := recordOf[bpf.WatchEvOpen](b)
		w.tellFD(g, &e.Fd, w.opened(g, e))
	case bpf.WatchEvKindEV_ACTION:
		e := recordOf[bpf.WatchEvAction](b)
		g.actions[e.Signal-1] = bpf.IterActionRec(e.Action)
		g.versions.Rest++
		w.tellAction(e)
	case bpf.WatchEvKindEV_LIMIT:
		e := recordOf[bpf.WatchEvLimit](b)
		g.limits[e.Resource] = model.Limit{Cur: e.Limit.Cur, Max: e.Limit.Max}
		g.versions.Rest++
		w.tellLimit(e)
	case bpf.WatchEvKindEV_CALL:
		w.applyCall(g, recordOf[bpf.WatchEvCall](b), "")
	case bpf.WatchEvKindEV_NAMED:
		e := recordOf[bpf.WatchEvNamed](b)
		w.applyCall(g, &e.Call, cstring(e.Name[:]))
	}
}

// mapsCode reports whether a call may have made a part of a file code.
func mapsCode(e *mapChange) bool {
	if e.Args[2]&unix.PROT_EXEC == 0 {
		return false
	}
	switch e.Head.Nr {
	case unix.SYS_MMAP:
		return e.Args[3]&unix.MAP_ANONYMOUS == 0
	case unix.SYS_MPROTECT, unix.SYS_PKEY_MPROTECT:
		return true
	}
	return false
}

// fdEvent takes the state of a slot.
func (tb *table) fdEvent(g *group, e *bpf.WatchEvFd) *openFile {
	g.versions.FDs++
	fd := int(e.Fd)
	if e.Bits&uint32(bpf.WatchFdBitFD_OPEN) == 0 {
		tb.closeSlot(g, fd)
		return nil
	}
	f := tb.setSlot(g, fd, slot{file: e.File, cloexec: e.Bits&uint32(bpf.WatchFdBitFD_CLOEXEC) != 0})
	f.flags, f.mode = cleanFlags(e.Flags), e.Mode
	if e.Bits&uint32(bpf.WatchFdBitFD_INODE) != 0 {
		f.inode = bpf.IterInodeRec(e.Inode)
	} else if f.inode.Ino == 0 {
		g.stale |= partFDs // a description whose making was not seen
	}
	return f
}

// opened takes a descriptor with the way it was opened, and returns the path that was given. One that the record has no
// room for is replaced by where it led.
func (w *Watcher) opened(g *group, e *bpf.WatchEvOpen) (given string) {
	given = cstring(e.Path[:])
	f := w.table.fdEvent(g, &e.Fd)
	if f == nil {
		return given // closed by another thread since
	}
	if len(given) == len(e.Path)-1 {
		given = w.link(g.pid, fmt.Sprintf("fd/%d", e.Fd.Fd))
	}
	f.given = given
	switch e.Fd.Head.Nr {
	case unix.SYS_OPENAT, unix.SYS_OPENAT2:
		f.how, f.create = uint32(e.Fd.Args[2]), uint32(e.Fd.Args[3])
	default:
		if how, create, ok := oldOpen(&e.Fd); ok {
			f.how, f.create = how, create
		}
	}
	f.resolved = w.resolve(g, e, given)
	return given
}

// applyCall takes a call that is reported as it is.
func (w *Watcher) applyCall(g *group, e *bpf.WatchEvCall, name string) {
	g.versions.Rest++
	switch e.Head.Nr {
	case unix.SYS_RECVMSG, unix.SYS_RECVMMSG, unix.SYS_CLOSE_RANGE, unix.SYS_UNSHARE:
		g.stale |= partFDs
		g.versions.FDs++
	case unix.SYS_MADVISE:
		if m := w.table.mms[g.mm]; m != nil {
			m.stale = true
		}
	case unix.SYS_PRLIMIT64:
		g.stale |= partRest
	case unix.SYS_RT_SIGPROCMASK:
		g.thread(int(e.Head.Tid)).mask = e.Args[0]
	case unix.SYS_SIGALTSTACK:
		g.thread(int(e.Head.Tid)).altStack = makeAltStack(e.Args[0], e.Args[2], uint32(e.Args[1]))
	case unix.SYS_UMASK:
		g.umask = uint32(e.Args[0])
	case unix.SYS_CHDIR, unix.SYS_FCHDIR, unix.SYS_CHROOT:
		w.changedDir(g, name)
	case unix.SYS_INOTIFY_ADD_WATCH:
		if s, ok := g.fds[int(e.Args[0])]; ok {
			g.inotify[watchKey{s.file, int(e.Head.Ret)}] = name
		}
	case unix.SYS_INOTIFY_RM_WATCH:
		if s, ok := g.fds[int(e.Args[0])]; ok {
			delete(g.inotify, watchKey{s.file, int(e.Args[1])})
		}
	}
	w.tellCall(g, e, name)
}

// changedDir finds the working directory after a chdir, by the link or, if the process is gone, by the text of the
// path.
func (w *Watcher) changedDir(g *group, given string) {
	dir := w.link(g.pid, "cwd")
	if dir == "" && given != "" {
		if dir = given; !filepath.IsAbs(given) {
			dir = filepath.Join(g.cwd, given)
		}
	}
	g.cwd = dir
	w.learnPath(dir)
}

func (g *group) thread(tid int) *thread {
	t := g.threads[tid]
	if t == nil {
		t = &thread{altStack: model.AltStack{Flags: ssDisable}}
		g.threads[tid] = t
	}
	return t
}

// applyTask takes births, execs and ends.
func (w *Watcher) applyTask(e *bpf.WatchEvTask) {
	tb := w.table
	pid, bits := int(e.Head.Pid), bpf.WatchShareBit(e.Bits)
	switch bpf.WatchEvKind(e.Head.Kind) {
	case bpf.WatchEvKindEV_FORK:
		g := tb.group(int(e.ChildPid))
		parent := tb.groups[pid]
		if bits&bpf.WatchShareBitSHARE_GROUP == 0 {
			g.ppid = pid
			g.comm = cstring(e.Comm[:])
			w.code.forked(pid, int(e.ChildPid))
			if parent != nil {
				g.libs = append([]model.Library(nil), parent.libs...)
			}
		} else if parent != nil && parent.threads[int(e.Head.Tid)] != nil {
			g.thread(int(e.ChildTid)).mask = parent.threads[int(e.Head.Tid)].mask
		}
		g.thread(int(e.ChildTid))
		g.versions.Tasks++
		tb.use(g, e.Mm)
	case bpf.WatchEvKindEV_EXEC:
		g := tb.group(pid)
		tb.use(g, e.Mm)
		w.code.executed(pid)
		g.stale = partAll
		g.libs, g.comm = nil, cstring(e.Comm[:])
		g.threads = map[int]*thread{pid: {altStack: model.AltStack{Flags: ssDisable}}}
		g.versions.Tasks++
	case bpf.WatchEvKindEV_EXIT:
		if g := tb.groups[pid]; g != nil {
			delete(g.threads, int(e.Head.Tid))
			g.versions.Tasks++
		}
		if bits&bpf.WatchShareBitGROUP_DEAD != 0 {
			w.ended(pid, unix.WaitStatus(e.Status))
		}
	}
	w.tellTask(e)
}
