package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/tracer"
)

// backgroundEnv marks a watch that was started in the background: it tells on standard output, in one line of JSON,
// that it runs, or why it does not, and is silent from then on.
const backgroundEnv = "BPFCKPT_BACKGROUND"

func inBackground() bool { return os.Getenv(backgroundEnv) != "" }

// ready is the line of a watch that runs.
type ready struct {
	Watcher int        `json:"watcher"` // its pid
	Error   *errorJSON `json:"error,omitempty"`
}

// startWatch starts a watch of pid in the background, in a session of its own, and waits until it runs. flags are
// further flags of the verb.
func startWatch(ctx context.Context, pid int, flags []string) (watcher int, err error) {
	cmd := exec.Command(ownProgram(), append([]string{"watch", strconv.Itoa(pid), "--json"}, flags...)...)
	cmd.Env = append(os.Environ(), backgroundEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, fault.New(fault.WatchGone, pidText(pid), "start a watch: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return 0, fault.New(fault.WatchGone, pidText(pid), "start a watch: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	line, _ := bufio.NewReader(out).ReadBytes('\n')
	var r ready
	switch err := json.Unmarshal(line, &r); {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case err != nil:
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		return 0, fault.New(fault.WatchGone, pidText(pid), "the watch that was started ended at once")
	case r.Error != nil:
		_ = cmd.Wait() // its error is known
		return 0, &fault.Error{Code: r.Error.Code, Object: r.Error.Object, Cause: r.Error.Cause, Remedy: r.Error.Remedy}
	}
	_ = cmd.Process.Release()
	return r.Watcher, nil
}

// ownProgram is the path of this program; where that leads nowhere any more, a link to the very file.
func ownProgram() string {
	const link = "/proc/self/exe"
	path, err := os.Readlink(link)
	if err != nil {
		return link
	}
	if _, err := os.Stat(path); err != nil {
		return link
	}
	return path
}

// watchInBackground starts the watch that the command line asks for and returns when it runs.
func (c *call) watchInBackground(pid int) error {
	if c.cli.IsSet("metrics") {
		return usageError(c.verb, "--metrics",
			"a watch in the background does not serve metrics; start it with your service manager")
	}
	var flags []string
	for _, f := range c.verb.flags {
		name := f.Names()[0]
		if !c.cli.IsSet(name) || name == "background" {
			continue
		}
		switch f.(type) {
		case *cli.BoolFlag:
			flags = append(flags, "--"+name)
		case *cli.StringSliceFlag:
			for _, value := range c.cli.StringSlice(name) {
				flags = append(flags, "--"+name+"="+value)
			}
		default:
			flags = append(flags, fmt.Sprintf("--%s=%v", name, c.cli.Value(name)))
		}
	}
	if err := c.takeOver(pid, c.cli.IsSet("every")); err != nil {
		return err
	}
	watcher, err := startWatch(c.ctx, pid, flags)
	if err != nil {
		return err
	}
	if c.json {
		return c.object(map[string]int{"pid": pid, "watcher": watcher})
	}
	c.say("the watch of pid %d runs in the background, pid %d; `bpfckpt watch %d --stop` ends it", pid, watcher, pid)
	return nil
}

// quietWatch is the output of a watch in the background.
type quietWatch struct {
	wt    *watching
	begun bool
}

func (q *quietWatch) stats(watchStatus) error {
	if q.begun {
		return nil
	}
	q.begun = true
	if err := q.wt.object(ready{Watcher: os.Getpid()}); err != nil {
		return err
	}
	// From here on nobody listens, and no directory or file system is kept busy.
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		for fd := range 3 {
			err = errors.Join(err, unix.Dup3(null, fd, 0))
		}
		err = errors.Join(err, unix.Close(null), os.Chdir("/"))
	}
	return outputError(err)
}

func (q *quietWatch) event(tracer.Event) error { return nil }

func (q *quietWatch) saved(outcome) error { return nil } // `watch --list` tells

func (q *quietWatch) end(watchEnd) error { return nil }
