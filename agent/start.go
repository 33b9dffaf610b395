package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/control"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// backgroundEnv marks a watch that was started in the background: it tells on standard output, in one line of JSON,
// that it runs, or why it does not, and is silent from then on.
const backgroundEnv = "BPFCKPT_BACKGROUND"

// InBackground reports whether this process was started as a watch in the background: nobody looks at what it prints
// but Ready, or the error that it ends with before that.
func InBackground() bool { return os.Getenv(backgroundEnv) != "" }

// ready is the line of a watch in the background. With an error it is the object that --json prints for that.
type ready struct {
	Watcher int            `json:"watcher"` // its pid
	Error   *control.Fault `json:"error,omitempty"`
}

// Ready tells whoever started this watch in the background, over out, that it runs, and then lets go of the standard
// streams and of the directory: from here on nobody listens, and no directory or file system is kept busy.
func Ready(out io.Writer) error {
	if err := json.NewEncoder(out).Encode(ready{Watcher: os.Getpid()}); err != nil {
		return err
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for fd := range 3 {
		err = errors.Join(err, unix.Dup3(null, fd, 0))
	}
	return errors.Join(err, unix.Close(null), os.Chdir("/"))
}

// Start starts a watch of pid in the background, in a session of its own, and waits until it runs: this program with
// the verb watch and the given flags. It returns the pid of the watch, or why there is none.
func Start(ctx context.Context, pid int, flags []string) (watcher int, err error) {
	cmd := exec.Command(ownProgram(), append([]string{"watch", strconv.Itoa(pid), "--json"}, flags...)...)
	cmd.Env = append(os.Environ(), backgroundEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, fault.New(fault.WatchGone, pidName(pid), "start a watch: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return 0, fault.New(fault.WatchGone, pidName(pid), "start a watch: %w", err)
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
		return 0, fault.New(fault.WatchGone, pidName(pid), "the watch that was started ended at once")
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
