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
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Client is the restore's side of a server.
type Client struct {
	cmd   *exec.Cmd
	conn  *os.File
	in    *bufio.Reader
	ended chan struct{}
}

// Start starts a server for an image, DIR@ID, in a session of its own. command is what runs Serve, with the reference and the caller's pid appended.
// report is where it says what people should know; nil is nowhere.
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
		// Its guard may hold its end of the socket a little longer.
		_ = c.conn.SetReadDeadline(time.Now())
	}()
	return c, nil
}

// Pid is the server's.
func (c *Client) Pid() int { return c.cmd.Process.Pid }

// Add hands a process over: from now on its missing pages come when they are touched.
func (c *Client) Add(ctx context.Context, p Process) error {
	_, err := c.do(ctx, request{Process: &p})
	return err
}

// Run is the last request, before the processes run: the server brings everything and then ends. It returns how many pages are to come.
func (c *Client) Run(ctx context.Context) (pages int, err error) {
	a, err := c.do(ctx, request{Run: true})
	if err == nil {
		_ = c.conn.Close()
	}
	return a.Pages, err
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

func (c *Client) do(ctx context.Context, r request) (answer, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Now()) })
	defer stop()
	var a answer
	if err := json.NewEncoder(c.conn).Encode(r); err != nil {
		return a, fmt.Errorf("ask the server of pages: %w", err)
	}
	line, err := c.in.ReadBytes('\n')
	if ctx.Err() != nil {
		return a, ctx.Err()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("it has ended")
	}
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err != nil {
		return a, fmt.Errorf("the server of pages: %w", err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}
