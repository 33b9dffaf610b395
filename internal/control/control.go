// Package control is how commands talk to a running watch: a Unix socket of mode 0600 for each watched process, named
// by its identity (package procid), and lines of JSON over it. The servers of restore --lazy are asked the same way;
// their sockets carry their own identity. A client sends one Request and reads Replies until one has a result or an
// error; closing the connection cancels what it asked for.
//
// Requests and replies carry the version of the protocol. A server serves its own version only, but for OpEnd: a newer
// command ends an older watch and starts its own, an older command is told E_CONTROL_SOCKET. Before there were
// versions, the sockets were called KIND-PID.sock; those watches are still found, listed and ended (Client.Former), and
// the command of that time finds a link of that name, which leads it to the refusal.
//
// A watch holds a lock as long as it lives (fcntl(2), an open file description lock), so that of many that start at
// once one becomes the watch, whatever takes how long. The kernel removes nothing when a watch dies, so a socket whose
// lock nobody holds is stale; it is removed by the next watch of the process, or by whoever sees that the process has
// ended.
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

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procid"
)

// Dir is where the sockets of this machine are; it is made with mode 0700.
const Dir = "/run/bpfckpt"

// Version is that of the protocol between a command and a watch. It changes with anything that one of them would
// misunderstand.
const Version = 2

// The operations. OpEnd stays as it is in every version.
const (
	OpStatus = "status" // the result is whatever the watch tells about itself
	OpSnap   = "snap"   // options as the snap verb has them, progress on the way, the result is that of the snapshot
	OpEnd    = "end"    // the watch ends, soon after it has answered
	OpFinish = "finish" // of a lazy restore: the result comes when all memory has, an error if it never will
)

// Request is what a client asks for, in one line.
type Request struct {
	Version int `json:"version"` // 0 before there were versions
	// identity of the process that is meant, "" before there were versions
	Target  string          `json:"target,omitempty"`
	Op      string          `json:"op"`
	Options json.RawMessage `json:"options,omitempty"`
}

// Reply is one line of the answer.
type Reply struct {
	Version  int             `json:"version"` // of who answers
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

// Handler serves one request. It may call progress; its result is sent as JSON. The context ends when the client goes
// away.
type Handler func(ctx context.Context, req Request, progress func(done, total int64)) (any, error)

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
		go s.serveOne(conn, h)
	}
}

func (s *Server) serveOne(conn *net.UnixConn, h Handler) {
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
	answer := func(r Reply) { // a client that has gone needs no answer
		r.Version = Version
		_ = out.Encode(r)
	}
	var req Request
	if err := json.Unmarshal(line, &req); err != nil {
		answer(Reply{Faults: wire(fault.New(fault.ControlSocket, "request", "%w", err))})
		return
	}
	if err := s.understands(&req); err != nil {
		answer(Reply{Faults: wire(err)})
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = in.ReadByte() // ends when the client closes
		cancel()
	}()
	result, err := h(ctx, req, func(done, total int64) { answer(Reply{Progress: &Progress{done, total}}) })
	if err != nil {
		answer(Reply{Faults: wire(err)})
		return
	}
	raw, err := json.Marshal(result)
	if err != nil {
		answer(Reply{Faults: wire(fault.New(fault.ControlSocket, "answer", "%w", err))})
		return
	}
	answer(Reply{Result: raw})
}

// understands refuses a request of another version, or one that means another process.
func (s *Server) understands(req *Request) error {
	switch {
	case req.Version < Version, req.Version > Version && req.Op != OpEnd:
		return fault.New(fault.ControlSocket, "request",
			"the watch speaks version %d of the protocol, the command version %d",
			Version, req.Version).WithRemedy("use the bpfckpt that the watch is of, pid %d", os.Getpid())
	case req.Target == "" || req.Version > Version:
		return nil
	}
	if id, ok := procid.Parse(req.Target); !ok || !id.Is(s.id) {
		return fault.New(fault.ControlSocket, "request", "it means process %s; this is about %s", req.Target, s.id)
	}
	return nil
}

// mayAsk lets in root and the user the watch runs as. The mode of the socket says the same; this holds wherever it is.
func mayAsk(conn *net.UnixConn) bool {
	cred, err := peer(conn)
	return err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
}

// peer tells who is at the other end (SO_PEERCRED, unix(7)).
func peer(conn *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, errors.Join(e, err)
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
type Client struct {
	conn   *net.UnixConn
	path   string
	id     procid.ID // of the process that is meant
	former bool      // who is there is of the time before there were versions
}

// Former reports whether who is there does not know of versions: it takes OpStatus, OpEnd and OpFinish only.
func (c *Client) Former() bool { return c.former }

// Peer returns the pid of who is there, as we see it; 0 if we do not.
func (c *Client) Peer() int {
	cred, err := peer(c.conn)
	if err != nil {
		return 0
	}
	return int(cred.Pid)
}

// ErrOlder is wrapped by the faults that say that a watch is of an earlier version than this command, ErrNewer by those
// of a later one, which refuses all that it is asked.
var (
	ErrOlder = errors.New("it is of an earlier version of bpfckpt")
	ErrNewer = errors.New("it is of a later version of bpfckpt")
)

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
	if c.former && op == OpSnap {
		return fault.New(fault.ControlSocket, "watch", "%w", ErrOlder)
	}
	req := Request{Version: Version, Target: c.id.String(), Op: op, Options: raw}
	if err := json.NewEncoder(c.conn).Encode(req); err != nil {
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
		case r.Version < Version && !c.former && op != OpEnd:
			return fault.New(fault.ControlSocket, "watch", "%w", ErrOlder)
		case len(r.Faults) > 0:
			return unwire(r)
		case r.Result != nil:
			return json.Unmarshal(r.Result, result)
		case r.Progress != nil && progress != nil:
			progress(r.Progress.Done, r.Progress.Total)
		}
	}
	return fault.New(fault.WatchGone, "watch", "it ended before it answered")
}

func unwire(r Reply) error {
	list := make(fault.List, len(r.Faults))
	for i, f := range r.Faults {
		list[i] = &fault.Error{Code: f.Code, Object: f.Object, Cause: f.Cause, Remedy: f.Remedy}
		if r.Version > Version {
			list[i].Err = ErrNewer
		}
	}
	if len(list) == 1 {
		return list[0]
	}
	return list
}
