package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// lab is where programs run.
type lab struct {
	command string // the bpfckpt that is tried
	work    string // the directory of everything
}

// subject is a program that has been prepared, with what it does if nobody interrupts it.
//
// Its directory holds "in" (what the setup made), "run" (where it runs; each file there counts), "tmp", "store"
// (images), and the output of the commands of each trial.
type subject struct {
	program
	lab  *lab
	dir  string
	want outcome
	cpu  time.Duration // processor time of all its processes
	wall time.Duration
}

// outcome is what counts of a run.
type outcome struct {
	status int               // as a shell has it: 128 and the signal for one that was killed
	files  map[string]string // path below "run": size and digest
}

// row is what became of one program.
type row struct {
	program
	err     error // it could not even run by itself
	results []result
	saved   saved
}

// all runs the programs one after the other, and writes down what came of each.
func (l *lab) all(ctx context.Context, list []program, o options) ([]row, error) {
	var doc *table
	if o.out != "" {
		var err error
		if doc, err = readTable(o.out); err != nil {
			return nil, err
		}
	}
	var rows []row
	for i, p := range list {
		fmt.Printf("%d/%d %s:", i+1, len(list), p.name)
		r := l.one(ctx, p, modesOf(o))
		fmt.Println()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		rows = append(rows, r)
		if doc != nil {
			if err := doc.set(r); err != nil {
				return nil, err
			}
		}
		if r.well() && !o.keep {
			os.RemoveAll(filepath.Join(l.work, p.name))
		}
	}
	return rows, nil
}

// one puts one program through.
func (l *lab) one(ctx context.Context, p program, ways []mode) row {
	r := row{program: p}
	s, err := l.prepare(ctx, p)
	if err != nil {
		fmt.Printf(" %v", err)
		r.err = err
		return r
	}
	fmt.Printf(" alone %.1fs of processor time in %.1fs", s.cpu.Seconds(), s.wall.Seconds())
	for _, m := range ways {
		res := s.interrupt(ctx, m)
		fmt.Printf(", %s %s", m.name, res)
		r.results = append(r.results, res)
		if res.saved.freeze > 0 {
			r.saved = res.saved
		}
	}
	return r
}

// prepare runs the setup of a program, and then the program itself, once.
func (l *lab) prepare(ctx context.Context, p program) (*subject, error) {
	s := &subject{program: p, lab: l, dir: filepath.Join(l.work, p.name)}
	for _, d := range []string{"in", "home"} {
		if err := os.MkdirAll(s.path(d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := s.fresh(); err != nil { // the setup too uses tmp
		return nil, err
	}
	if p.setup != "" {
		cmd := exec.CommandContext(ctx, "bash", "-euc", p.setup)
		cmd.Dir, cmd.Env = s.path("in"), s.env()
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("the setup failed: %w: %s", err, tail(out))
		}
	}
	if err := s.fresh(); err != nil {
		return nil, err
	}
	defer s.sweep()
	begun := time.Now()
	c, err := s.spawn("alone", s.argv()...)
	if err != nil {
		return nil, err
	}
	s.wall = 5 * time.Minute // nothing here takes longer
	s.want.status, err = c.wait(ctx, s.limit())
	s.wall = time.Since(begun)
	if err != nil {
		return nil, err
	}
	state := c.cmd.ProcessState
	s.cpu = state.UserTime() + state.SystemTime()
	if s.want.status != p.status {
		return nil, fmt.Errorf("it ends with status %d: %s", s.want.status, s.said("stderr"))
	}
	if s.cpu < time.Second {
		return nil, fmt.Errorf("it works for %s only: too short to be interrupted", s.cpu.Round(time.Millisecond))
	}
	s.want.files, err = digest(s.path("run"))
	return s, err
}

func (s *subject) path(name string) string { return filepath.Join(s.dir, name) }

// argv is the command. Its standard streams are files of its own.
func (s *subject) argv() []string {
	return []string{"bash", "-c", "exec </dev/null >out 2>../stderr; " + s.command}
}

// env is the same in every run.
func (s *subject) env() []string {
	return []string{
		"PATH=" + os.Getenv("PATH") + ":/usr/games", "HOME=" + s.path("home"), "TMPDIR=" + s.path("tmp"),
		"LC_ALL=C.UTF-8", "TZ=UTC", "GOCACHE=" + filepath.Join(s.lab.work, "go-cache"), "GOTOOLCHAIN=local",
	}
}

// limit is how long any one step may take: the machine may be busy.
func (s *subject) limit() time.Duration { return time.Minute + 10*s.wall }

// fresh makes the directories of a run anew.
func (s *subject) fresh() error {
	if err := os.RemoveAll(s.path("store")); err != nil {
		return err
	}
	for _, d := range []string{"run", "tmp"} {
		if err := os.RemoveAll(s.path(d)); err != nil {
			return err
		}
		if err := os.Mkdir(s.path(d), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// said is the end of what was written to a file.
func (s *subject) said(name string) string {
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		return err.Error()
	}
	return tail(b)
}

// tail is the end of a text, in one line.
func tail(b []byte) string {
	const most = 400
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return strings.Join(strings.Fields(string(b)), " ")
}

// child is a command that was started: the program, or bpfckpt.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has been waited for
}

// spawn starts a command in a process group of its own, as a shell would, with its output in files named after what it
// is.
func (s *subject) spawn(name string, argv ...string) (*child, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = s.path("run"), s.env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := os.Create(s.path(name + ".out"))
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	stderr, err := os.Create(s.path(name + ".err"))
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // the state says it all
		close(c.done)
	}()
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

var errHangs = errors.New("it hangs")

// wait waits for the end, at most for limit, and returns the status as a shell has it.
func (c *child) wait(ctx context.Context, limit time.Duration) (int, error) {
	select {
	case <-c.done:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(limit):
		return 0, errHangs
	}
	ws := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

// ended reports whether it has ended.
func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// digest reads every file below a directory.
func digest(dir string) (map[string]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		n, err := io.Copy(h, f)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files[name] = fmt.Sprintf("%d bytes, sha256 %x", n, h.Sum(nil))
		return err
	})
	return files, err
}

// differs names the first file that is not as it was without interruption, or "".
func (o outcome) differs(want outcome) string {
	if o.status != want.status {
		return fmt.Sprintf("status %d, not %d", o.status, want.status)
	}
	names := slices.Sorted(maps.Keys(want.files))
	for _, name := range slices.Sorted(maps.Keys(o.files)) {
		if _, ok := want.files[name]; !ok {
			return "there is a file " + name
		}
	}
	for _, name := range names {
		if have, want := o.files[name], want.files[name]; have != want {
			return fmt.Sprintf("%s is other: %s, not %s", name, have, want)
		}
	}
	return ""
}
