package lazy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/control"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// Client is the restore's side of a server.
type Client struct {
	cmd   *exec.Cmd
	conn  *os.File
	in    *bufio.Reader
	ended chan struct{}
	asked int // requests whose answers were not read
}

// Start starts a server for an image, as image.Open names it, in a session of its own. command is what runs Serve, with
// the reference and the caller's pid appended. report is where it says what people should know; nil is nowhere.
func Start(command []string, ref string, report *os.File) (*Client, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "socket")
	defer theirs.Close()
	_ = unix.SetNonblock(fds[0], true) // for deadlines
	c := &Client{conn: os.NewFile(uintptr(fds[0]), "socket"), ended: make(chan struct{})}
	c.in = bufio.NewReader(c.conn)
	c.cmd = exec.Command(command[0], append(command[1:len(command):len(command)], ref, strconv.Itoa(os.Getpid()))...)
	c.cmd.ExtraFiles = []*os.File{theirs}
	if report != nil {
		c.cmd.Stderr = report
	}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.cmd.Start(); err != nil {
		c.conn.Close()
		return nil, fmt.Errorf("start the server of pages: %w", err)
	}
	go func() {
		_ = c.cmd.Wait()
		close(c.ended)
		// It may be done already, its answers unread; or dead, and its guard holds its end of the socket a little
		// longer.
		_ = c.conn.SetReadDeadline(time.Now().Add(lastWords))
	}()
	return c, nil
}

// lastWords is how long we read what a server said before it ended.
const lastWords = 2 * time.Second

// Pid is the server's.
func (c *Client) Pid() int { return c.cmd.Process.Pid }

// Add hands a process over: its missing pages come when they are touched, as soon as the server is ready. It does not
// wait for that; Run tells what went wrong. The descriptor must stay open until then.
func (c *Client) Add(p Process) error {
	c.asked++
	return c.send(request{Process: &p})
}

// Run is the last request, before the processes run: the server brings everything and then ends. id is that of the
// image. It returns how many pages are to come.
func (c *Client) Run(ctx context.Context, id string) (pages int, err error) {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Now()) })
	defer stop()
	c.asked++
	if err := c.send(request{Run: id}); err != nil {
		return 0, err
	}
	for ; c.asked > 0; c.asked-- {
		a, err := c.receive()
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil {
			return 0, err
		}
		pages = a.Pages
	}
	_ = c.conn.Close() // that nothing more is asked is no news to the server
	return pages, nil
}

// Settle waits until the memory of processes restored with --lazy is there, of those among pids.
func Settle(ctx context.Context, pids []int) error {
	servers, err := control.ListLazy()
	for _, s := range servers {
		defer s.Client.Close()
	}
	if err != nil || len(servers) == 0 || !slices.ContainsFunc(pids, incomplete) {
		return err
	}
	for _, s := range servers {
		// Which processes are whose is not known of forked children, so all are asked. If one cannot promise, the
		// mappings will be found registered still.
		_ = s.Client.Do(ctx, control.OpFinish, nil, &struct{}{}, nil)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !slices.ContainsFunc(pids, incomplete) {
			return nil
		}
	}
	return nil
}

// incomplete tells whether a process has mappings whose missing pages are to come.
func incomplete(pid int) bool {
	maps, err := procfs.Pid(pid).Smaps()
	return err == nil && slices.ContainsFunc(maps, func(m procfs.Smap) bool { return slices.Contains(m.Flags, "um") })
}

// Abort ends the server of a restore that failed, after its processes were killed, and waits for it.
func (c *Client) Abort() {
	_ = json.NewEncoder(c.conn).Encode(request{Abort: true}) // closing says the same
	_ = c.conn.Close()
	select {
	case <-c.ended:
	case <-time.After(5 * time.Second):
		_ = c.cmd.Process.Kill() // its guard finds nobody alive
		<-c.ended
	}
}

func (c *Client) send(r request) error {
	// what it says before it goes tells more
	if err := json.NewEncoder(c.conn).Encode(r); err != nil && !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("ask the server of pages: %w", err)
	}
	return nil
}

// receive returns one answer; one that tells of an error is the error.
func (c *Client) receive() (answer, error) {
	var a answer
	line, err := c.in.ReadBytes('\n')
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ECONNRESET) {
		err = errors.New("it has ended")
	}
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	switch {
	case err != nil:
		return a, fmt.Errorf("the server of pages: %w", err)
	case a.Fault != nil:
		return a, &fault.Error{Code: a.Fault.Code, Object: a.Fault.Object, Cause: a.Fault.Cause, Remedy: a.Fault.Remedy}
	case a.Error != "":
		return a, fmt.Errorf("the server of pages: %s", a.Error)
	}
	return a, nil
}
