package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procid"
	"github.com/bpfckpt/bpfckpt/internal/view"
)

// Kinds of servers, and of a command that starts one; names of files begin with them.
const (
	kindWatch = "watch"
	kindLazy  = "lazy"
	kindStart = "start"
)

// What the names of files end with.
const (
	socketSuffix = ".sock"
	lockSuffix   = ".lock"
)

func socketPath(dir, kind string, id procid.ID) string {
	return filepath.Join(dir, kind+"-"+id.String()+socketSuffix)
}

func lockPath(dir, kind string, id procid.ID) string {
	return filepath.Join(dir, kind+"-"+id.String()+lockSuffix)
}

// formerPath is the socket of a watch, or of a server of pages, before there were versions.
func formerPath(dir, kind string, pid int) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%d%s", kind, pid, socketSuffix))
}

// Server is the socket of one watch.
type Server struct {
	id       procid.ID
	listener *net.UnixListener
	path     string
	former   string // a link for commands of the time before there were versions, "" if there is none
	lock     *lock
}

// Listen makes the socket of the watch of a process, which has the given pid here. A living watch of the same process
// is fault.Watched.
func Listen(id procid.ID, pid int) (*Server, error) {
	s, err := listen(Dir, kindWatch, id)
	if err == nil {
		s.linkFormer(formerPath(Dir, kindWatch, pid))
	}
	return s, err
}

// identity names a process of the place where this machine's sockets are, which is that of this process.
func identity(pid int) (procid.ID, error) {
	v, err := view.Own()
	if err != nil {
		return procid.ID{}, err
	}
	return v.Process(pid)
}

// ListenLazy makes the socket of this process as a server of pages.
func ListenLazy() (*Server, error) {
	id, err := identity(os.Getpid())
	if err != nil {
		return nil, err
	}
	return listen(Dir, kindLazy, id)
}

func listen(dir, kind string, id procid.ID) (*Server, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.New(fault.ControlSocket, dir, "%w", err)
	}
	sweep(dir)
	s := &Server{id: id, path: socketPath(dir, kind, id)}
	var err error
	s.lock, err = takeLock(lockPath(dir, kind, id))
	if errors.Is(err, errLocked) || err == nil && watchedNear(dir, kind, id) {
		if err == nil {
			s.lock.release()
		}
		return nil, fault.New(fault.Watched, fmt.Sprintf("pid %d", id.Pid), "another watch follows it")
	}
	if err != nil {
		return nil, fault.New(fault.ControlSocket, s.path, "%w", err)
	}
	if s.listener, err = bind(s.path); err != nil {
		s.lock.release()
		return nil, fault.New(fault.ControlSocket, s.path, "%w", err)
	}
	return s, nil
}

// watchedNear tells whether one who reads start times in another time namespace has a server for the process.
func watchedNear(dir, kind string, id procid.ID) bool {
	for _, near := range id.Near()[1:] {
		if locked(lockPath(dir, kind, near)) {
			return true
		}
	}
	return false
}

// bind makes the socket. What is in its place is of a dead process: the lock is ours.
func bind(path string) (*net.UnixListener, error) {
	// Bound under another name and with its mode before anyone can find it.
	hidden := path + ".new"
	_ = os.Remove(hidden)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(hidden, 0o600), os.Rename(hidden, path)); err != nil {
		l.Close()
		_ = os.Remove(hidden)
		return nil, err
	}
	return l, nil
}

// linkFormer lets a command of the time before there were versions find the watch, and be refused by it. A link to
// another watch that lives, of a process with the same pid in another namespace, stays: it does the same.
func (s *Server) linkFormer(path string) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close()
		return
	}
	hidden := s.path + ".link"
	_ = os.Remove(hidden)
	if os.Symlink(filepath.Base(s.path), hidden) == nil && os.Rename(hidden, path) == nil {
		s.former = path
		return
	}
	_ = os.Remove(hidden) // an older command starts a watch of its own, then, and finds that it cannot
}

// Close removes the socket.
func (s *Server) Close() error {
	if to, err := os.Readlink(s.former); err == nil && to == filepath.Base(s.path) {
		_ = os.Remove(s.former)
	}
	err := errors.Join(os.Remove(s.path), s.listener.Close())
	s.lock.release()
	return err
}

// Dial connects to the watch of the process that has a pid now. found is false if there is none.
func Dial(pid int) (c *Client, found bool, err error) {
	id, err := identity(pid)
	if errors.Is(err, &fault.Error{Code: fault.TargetGone}) || errors.Is(err, &fault.Error{Code: fault.NoRights}) {
		return nil, false, nil // whoever goes on says it in better words
	}
	if err != nil {
		return nil, false, err
	}
	if c, found, err = dial(Dir, kindWatch, id); found || err != nil {
		return c, found, err
	}
	return dialFormer(formerPath(Dir, kindWatch, pid))
}

func dial(dir, kind string, id procid.ID) (*Client, bool, error) {
	for _, near := range id.Near() {
		path := socketPath(dir, kind, near)
		conn, err := connect(path)
		if err != nil {
			return nil, false, err
		}
		if conn != nil {
			return &Client{conn: conn, path: path, id: near}, true, nil
		}
	}
	return nil, false, nil
}

// dialFormer connects to a socket from before there were versions, not to the link that now has such a name.
func dialFormer(path string) (*Client, bool, error) {
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != os.ModeSocket {
		return nil, false, nil //nolint:nilerr // nothing that we could use
	}
	conn, err := connect(path)
	if conn == nil || err != nil {
		return nil, false, err
	}
	return &Client{conn: conn, path: path, former: true}, true, nil
}

// connect returns nil if nobody is there.
func connect(path string) (*net.UnixConn, error) {
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		return conn.(*net.UnixConn), nil
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, nil
	case errors.Is(err, os.ErrPermission):
		// who may not look there has no rights on watched processes either, and is told so in better words
		return nil, nil
	}
	return nil, fault.New(fault.ControlSocket, path, "%w", err)
}

// AwaitGone waits until nobody is there any more whom the client was connected to, and reports whether that is so; it
// gives up when ctx ends.
func (c *Client) AwaitGone(ctx context.Context) bool {
	there := func() bool { return locked(strings.TrimSuffix(c.path, socketSuffix) + lockSuffix) }
	if c.former {
		there = func() bool {
			other, found, err := dialFormer(c.path)
			if found {
				other.Close()
			}
			return found || err != nil
		}
	}
	return poll(ctx, func() bool { return !there() })
}

// pollPause is how long it takes to notice what the kernel has no event for.
const pollPause = 5 * time.Millisecond

// poll waits for a condition, and reports whether it came true before ctx ended.
func poll(ctx context.Context, done func() bool) bool {
	for !done() {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pollPause):
		}
	}
	return true
}

// Await waits for a watch that is just starting, and connects to it. found is false if there is none, or it has given
// up.
func Await(ctx context.Context, pid int) (c *Client, found bool, err error) {
	id, err := identity(pid)
	if err != nil {
		return nil, false, err
	}
	poll(ctx, func() bool {
		starting := locked(lockPath(Dir, kindWatch, id)) || watchedNear(Dir, kindWatch, id)
		c, found, err = Dial(pid)
		return found || err != nil || !starting
	})
	return c, found, err
}

// StartLock keeps others from starting a watch of a process until it is released, so that of many commands that want
// one a single one starts it. It waits for others until ctx ends; the fault is E_CONTROL_SOCKET then.
func StartLock(ctx context.Context, pid int) (release func(), err error) {
	id, err := identity(pid)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(Dir, 0o700); err != nil {
		return nil, fault.New(fault.ControlSocket, Dir, "%w", err)
	}
	path := lockPath(Dir, kindStart, id)
	var l *lock
	got := poll(ctx, func() bool {
		l, err = takeLock(path)
		return !errors.Is(err, errLocked)
	})
	switch {
	case !got:
		return nil, fault.New(fault.ControlSocket, path,
			"another command is starting a watch of pid %d, and does not come to an end", pid).
			WithRemedy("end that command; `fuser %s` names it", path)
	case err != nil:
		return nil, fault.New(fault.ControlSocket, path, "%w", err)
	}
	return l.release, nil
}

// Found is a server that List has found.
type Found struct {
	Client *Client
	Pid    int // of the process that the server is about, as we see it; 0 if it has just ended
}

// List connects to the living watches of the processes that we see, by ascending pid. The caller closes the
// connections.
func List() ([]Found, error) { return list(Dir, kindWatch) }

// ListLazy connects to the living servers of pages.
func ListLazy() ([]Found, error) { return list(Dir, kindLazy) }

func list(dir, kind string) ([]Found, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.ControlSocket, dir, "%w", err)
	}
	v, err := view.Own()
	if err != nil {
		return nil, err
	}
	census := v.Census()
	var all []Found
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), kind+"-")
		name, ok2 := strings.CutSuffix(name, socketSuffix)
		if !ok || !ok2 {
			continue
		}
		if f, ok := open(filepath.Join(dir, e.Name()), kind, name, census); ok {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b Found) int { return cmp.Compare(a.Pid, b.Pid) })
	return all, nil
}

// open connects to the server whose socket is named so; to a watch only if we see its process.
func open(path, kind, name string, census *view.Census) (f Found, ok bool) {
	var err error
	if f.Pid, err = strconv.Atoi(name); err == nil {
		f.Client, ok, err = dialFormer(path)
		return f, ok && err == nil
	}
	id, ok := procid.Parse(name)
	if !ok {
		return f, false
	}
	pid, state := census.Find(id)
	if state == view.Unknown && kind == kindWatch {
		return f, false
	}
	conn, err := connect(path)
	if err != nil || conn == nil {
		return f, false
	}
	return Found{&Client{conn: conn, path: path, id: id}, pid}, true
}

// sweep removes what dead watches and servers of processes that have ended have left, and the sockets and links from
// before there were versions where nobody answers.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	v, err := view.Own()
	if err != nil {
		return
	}
	census := v.Census()
	for _, e := range entries {
		kind, name, ok := strings.Cut(e.Name(), "-")
		if !ok || kind != kindWatch && kind != kindLazy && kind != kindStart {
			continue
		}
		path := filepath.Join(dir, e.Name())
		name, suffix, _ := strings.Cut(name, ".")
		if id, isID := procid.Parse(name); isID {
			if _, s := census.Find(id); s == view.Ended {
				removeDead(dir, kind, id)
			}
		} else if _, err := strconv.Atoi(name); err == nil && "."+suffix == socketSuffix {
			removeStale(path)
		}
	}
}

// removeDead removes the files of a server whose process has ended, unless it still lives itself.
func removeDead(dir, kind string, id procid.ID) {
	l, err := takeLock(lockPath(dir, kind, id))
	if err != nil {
		return
	}
	path := socketPath(dir, kind, id)
	for _, p := range []string{path, path + ".new", path + ".link"} {
		_ = os.Remove(p)
	}
	l.release()
}

// removeStale removes a socket, or a link to one, that nobody listens on.
func removeStale(path string) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); {
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT):
		_ = os.Remove(path)
	}
}
