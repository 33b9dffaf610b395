// Package control is how commands talk to a running watch: a Unix socket of mode 0600 for each watched process,
// /run/bpfckpt/watch-PID.sock, and lines of JSON over it. The servers of restore --lazy are asked the same way, on lazy-PID.sock, where PID is
// the server's own. A client sends one Request and reads Replies until one has a result
// or an error; closing the connection cancels what it asked for. The kernel removes nothing when a watch dies, so a socket that nobody
// answers is stale: whoever finds it removes it.
package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Dir is where the sockets of this machine are; it is made with mode 0700.
const Dir = "/run/bpfckpt"

// The operations.
const (
	OpStatus = "status" // the result is whatever the watch tells about itself
	OpSnap   = "snap"   // options as the snap verb has them, progress on the way, the result is that of the snapshot
	OpEnd    = "end"    // the watch ends, soon after it has answered
	OpFinish = "finish" // of a lazy restore: the result comes when all memory has, an error if it never will
)

// Request is what a client asks for, in one line.
type Request struct {
	Op      string          `json:"op"`
	Options json.RawMessage `json:"options,omitempty"`
}

// Reply is one line of the answer.
type Reply struct {
	Progress *Progress       `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Faults   []Fault         `json:"faults,omitempty"`
}

// Progress counts bytes.
type Progress struct {
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
}

// Fault is a *fault.Error on the wire.
type Fault struct {
	Code   fault.Code `json:"code"`
	Object string     `json:"object"`
	Cause  string     `json:"cause"`
	Remedy string     `json:"remedy"`
}

// maxLine bounds a line of either direction, bytes.
const maxLine = 1 << 20

// Handler serves one request. It may call progress; its result is sent as JSON. The context ends when the client goes away.
type Handler func(ctx context.Context, req Request, progress func(done, total int64)) (any, error)

// Server is the socket of one watch.
type Server struct {
	listener *net.UnixListener
	path     string
}

// Kinds of servers; socket names begin with them.
const (
	kindWatch = "watch"
	kindLazy  = "lazy"
)

func socketPath(dir, kind string, pid int) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%d.sock", kind, pid))
}

// Listen makes the socket of the watch of pid. A living watch of the same process is fault.Watched.
func Listen(pid int) (*Server, error) { return listen(Dir, kindWatch, pid) }

// ListenLazy makes the socket of this process as a server of pages.
func ListenLazy() (*Server, error) { return listen(Dir, kindLazy, os.Getpid()) }

func listen(dir, kind string, pid int) (*Server, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.New(fault.ControlSocket, dir, "%w", err)
	}
	if c, found, err := dial(dir, kind, pid); err != nil {
		return nil, err
	} else if found {
		c.Close()
		return nil, fault.New(fault.Watched, fmt.Sprintf("pid %d", pid), "another watch follows it")
	}
	path := socketPath(dir, kind, pid)
	// Bound under another name and with its mode before anyone can find it.
	hidden := fmt.Sprintf("%s.%d", path, os.Getpid())
	_ = os.Remove(hidden) // of a dead process with our pid
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, fault.New(fault.ControlSocket, path, "%w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(hidden, 0o600), os.Rename(hidden, path)); err != nil {
		l.Close()
		_ = os.Remove(hidden)
		return nil, fault.New(fault.ControlSocket, path, "%w", err)
	}
	return &Server{listener: l, path: path}, nil
}

// Serve answers requests, one client after the other's connection in a goroutine of its own, until Close.
func (s *Server) Serve(h Handler) error {
	for {
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a control connection: %w", err)
		}
		go serveOne(conn, h)
	}
}

// Close removes the socket.
func (s *Server) Close() error {
	return errors.Join(os.Remove(s.path), s.listener.Close())
}

func serveOne(conn *net.UnixConn, h Handler) {
	defer conn.Close()
	if !mayAsk(conn) {
		return
	}
	in := bufio.NewReader(io.LimitReader(conn, maxLine))
	line, err := in.ReadBytes('\n')
	if err != nil {
		return // it went away, or talks something else
	}
	out := json.NewEncoder(conn)
	var req Request
	if err := json.Unmarshal(line, &req); err != nil {
		_ = out.Encode(Reply{Faults: wire(fault.New(fault.ControlSocket, "request", "%w", err))})
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = in.ReadByte() // ends when the client closes
		cancel()
	}()
	result, err := h(ctx, req, func(done, total int64) { _ = out.Encode(Reply{Progress: &Progress{done, total}}) })
	if err != nil {
		_ = out.Encode(Reply{Faults: wire(err)})
		return
	}
	raw, err := json.Marshal(result)
	if err != nil {
		_ = out.Encode(Reply{Faults: wire(fault.New(fault.ControlSocket, "answer", "%w", err))})
		return
	}
	_ = out.Encode(Reply{Result: raw}) // a client that has gone needs no answer
}

// mayAsk lets in root and the user the watch runs as. The mode of the socket says the same; this holds wherever it is.
func mayAsk(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	allowed := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		allowed = err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
	})
	return err == nil && allowed
}

// wire turns an error into faults for the line.
func wire(err error) []Fault {
	var list fault.List
	if !errors.As(err, &list) {
		var one *fault.Error
		if !errors.As(err, &one) {
			one = fault.New(fault.ControlSocket, "watch", "%w", err)
		}
		list = fault.List{one}
	}
	faults := make([]Fault, len(list))
	for i, f := range list {
		faults[i] = Fault{Code: f.Code, Object: f.Object, Cause: f.Cause, Remedy: f.Remedy}
	}
	return faults
}

// Client is a connection to a watch, for one request.
type Client struct{ conn net.Conn }

// Dial connects to the watch of pid. found is false if there is none.
func Dial(pid int) (c *Client, found bool, err error) { return dial(Dir, kindWatch, pid) }

// DialLazy connects to the server of pages that is process pid.
func DialLazy(pid int) (c *Client, found bool, err error) { return dial(Dir, kindLazy, pid) }

func dial(dir, kind string, pid int) (*Client, bool, error) {
	path := socketPath(dir, kind, pid)
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		return &Client{conn}, true, nil
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		return nil, false, nil // who may not look there has no rights on watched processes either, and is told so in better words
	case errors.Is(err, syscall.ECONNREFUSED):
		_ = os.Remove(path) // its watch is dead; if that fails the next one tries
		return nil, false, nil
	}
	return nil, false, fault.New(fault.ControlSocket, path, "%w", err)
}

// Close ends the connection and what was asked for.
func (c *Client) Close() { _ = c.conn.Close() }

// Do sends a request and decodes the answer into result. Errors are the *fault.Error or fault.List of the watch.
func (c *Client) Do(ctx context.Context, op string, options, result any, progress func(done, total int64)) error {
	stop := context.AfterFunc(ctx, c.Close)
	defer stop()
	err := c.do(op, options, result, progress)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (c *Client) do(op string, options, result any, progress func(done, total int64)) error {
	raw, err := json.Marshal(options)
	if err != nil {
		return fmt.Errorf("ask the watch: %w", err)
	}
	if err := json.NewEncoder(c.conn).Encode(Request{Op: op, Options: raw}); err != nil {
		return fault.New(fault.WatchGone, "watch", "%w", err)
	}
	in := bufio.NewScanner(c.conn)
	in.Buffer(nil, maxLine)
	for in.Scan() {
		var r Reply
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			return fault.New(fault.WatchGone, "watch", "its answer: %w", err)
		}
		switch {
		case len(r.Faults) > 0:
			return unwire(r.Faults)
		case r.Result != nil:
			return json.Unmarshal(r.Result, result)
		case r.Progress != nil && progress != nil:
			progress(r.Progress.Done, r.Progress.Total)
		}
	}
	return fault.New(fault.WatchGone, "watch", "it ended before it answered")
}

func unwire(faults []Fault) error {
	list := make(fault.List, len(faults))
	for i, f := range faults {
		list[i] = &fault.Error{Code: f.Code, Object: f.Object, Cause: f.Cause, Remedy: f.Remedy}
	}
	if len(list) == 1 {
		return list[0]
	}
	return list
}

// List returns the pids that have a living watch, ascending.
func List() ([]int, error) { return list(Dir, kindWatch) }

// ListLazy returns the pids of the living servers of pages, ascending.
func ListLazy() ([]int, error) { return list(Dir, kindLazy) }

func list(dir, kind string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.ControlSocket, dir, "%w", err)
	}
	var pids []int
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), kind+"-")
		name, ok2 := strings.CutSuffix(name, ".sock")
		pid, err := strconv.Atoi(name)
		if !ok || !ok2 || err != nil {
			continue
		}
		c, found, err := dial(dir, kind, pid)
		if err != nil || !found {
			continue
		}
		c.Close()
		pids = append(pids, pid)
	}
	return pids, nil
}
