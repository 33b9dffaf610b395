package tracer

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// dirKey is a directory by number. Device numbers are the kernel's own.
type dirKey struct {
	dev uint32
	ino uint64
}

// maxDirs bounds what is remembered of directories.
const maxDirs = 4096

// resolve finds where an open led. By the time we come to it the descriptor may be closed, or the process gone; the
// file's last name and its directory's inode, which the record has, then lead there: through directories seen before,
// or by following the path again.
func (w *Watcher) resolve(g *group, e *bpf.WatchEvOpen, given string) string {
	inode := (*bpf.IterInodeRec)(&e.Fd.Inode)
	leaf := cstring(e.Leaf[:])
	switch {
	case e.Fd.Head.Nr == unix.SYS_MEMFD_CREATE:
		return "/memfd:" + given + " (deleted)"
	case e.ParentIno == 0:
		return given
	case len(leaf) == len(e.Leaf)-1 || doubtful(inode): // a longer name, or numbers that stat(2) does not use
		return w.resolveByLink(g, e, given)
	}
	key := dirKey{e.Fd.Inode.Dev, e.ParentIno}
	if dir, ok := w.dirs[key]; ok {
		return filepath.Join(dir, leaf)
	}
	at := w.lexical(g, e, given)
	for _, dir := range []string{follow(filepath.Dir(at)), filepath.Dir(follow(at))} {
		if isDir(dir, key) {
			w.learn(key, dir)
			return filepath.Join(dir, leaf)
		}
	}
	return w.resolveByLink(g, e, given)
}

// lexical makes a given path absolute.
func (w *Watcher) lexical(g *group, e *bpf.WatchEvOpen, given string) string {
	if filepath.IsAbs(given) {
		return given
	}
	base := g.cwd
	if base == "" { // an open told of before the state was first read
		base = w.link(g.pid, "cwd")
	}
	byDir := e.Fd.Head.Nr == unix.SYS_OPENAT || e.Fd.Head.Nr == unix.SYS_OPENAT2
	if at := int32(e.Fd.Args[0]); byDir && at != unix.AT_FDCWD {
		if s, ok := g.fds[int(at)]; ok {
			base = w.table.files[s.file].resolved
		}
	}
	return filepath.Join(base, given)
}

// resolveByLink asks /proc, if the descriptor still leads to the same file, and else believes the text of the path.
func (w *Watcher) resolveByLink(g *group, e *bpf.WatchEvOpen, given string) string {
	name := fmt.Sprintf("fd/%d", e.Fd.Fd)
	inode := (*bpf.IterInodeRec)(&e.Fd.Inode)
	st, err := procfs.Pid(g.pid).Stat2(name)
	if err == nil && (doubtful(inode) || st.Ino == inode.Ino && st.Dev == userDev(inode.Dev)) {
		if path := w.link(g.pid, name); path != "" {
			w.learn(dirKey{inode.Dev, e.ParentIno}, filepath.Dir(path))
			return path
		}
	}
	return w.lexical(g, e, given)
}

// learn remembers where a directory is.
func (w *Watcher) learn(key dirKey, dir string) {
	if !isDir(dir, key) {
		return
	}
	if len(w.dirs) >= maxDirs {
		clear(w.dirs)
	}
	w.dirs[key] = dir
}

// learnPath remembers where the directory of a file is, or a directory itself.
func (w *Watcher) learnPath(dir string) {
	var st unix.Stat_t
	if dir != "" && unix.Stat(dir, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		w.learn(dirKey{kernelDev(st.Dev), st.Ino}, dir)
	}
}

func isDir(dir string, key dirKey) bool {
	var st unix.Stat_t
	return unix.Stat(dir, &st) == nil && st.Ino == key.ino && st.Dev == userDev(key.dev)
}

// follow follows the symbolic links of a path as far as it leads.
func follow(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

// link reads a link of a process, "" if it is gone.
func (w *Watcher) link(pid int, name string) string {
	s, err := procfs.Pid(pid).Link(name)
	if err != nil {
		return ""
	}
	return s
}
