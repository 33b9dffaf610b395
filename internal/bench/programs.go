package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/bench/subject"
)

// program is a whole program to slow down.
type program struct {
	name   string
	needs  []string // commands it is made of; it is left out if one is missing
	script string   // for sh, in the stage's directory
}

// mixRounds makes the built-in mix take about half a second.
const mixRounds = 12000

// programList is the default list. Each takes about half a second.
var programList = []program{
	{"built-in mix", nil, `exec ./calls <mix.txt`},
	{"python3", []string{"python3"}, `exec "$PYTHON" -S -c '
import hashlib, json, os
words = {}
for i in range(80000):
    words.setdefault(hashlib.md5(str(i).encode()).hexdigest()[:3], []).append(i)
for i in range(8):
    with open("py.json", "w") as f: json.dump(words, f)
    with open("py.json") as f: json.load(f)
'`},
	{"sqlite3", []string{"sqlite3"}, `rm -f db; exec sqlite3 db "
create table t(a integer primary key, b text, c real);
with recursive n(i) as (select 1 union all select i+1 from n where i<250000) insert into t select i, hex(i*7919), i*0.5 from n;
create index tb on t(b); select count(*), sum(c) from t where b like '4%'; delete from t where a%3=0; vacuum;"`},
	{"redis", []string{"redis-server", "redis-benchmark", "redis-cli"}, `
redis-server --port 0 --unixsocket "$PWD/redis.sock" --save "" --appendonly no --daemonize no &
until redis-cli -s redis.sock ping; do sleep 0.005; done
redis-benchmark -s redis.sock -n 40000 -c 20 -t set,get -q; status=$?
redis-cli -s redis.sock shutdown nosave; wait $!; rm -f redis.sock; exit $status`},
	{"compile", []string{"gcc"}, `for i in 1 2 3; do gcc -O2 -shared -fPIC -o out.so interpose.c -ldl || exit 1; done`},
}

var (
	programMetric = Metric{Name: "run", Unit: "ms"}
	cpuMetric     = Metric{Name: "cpu", Unit: "ms"}
)

// programs is the experiment on whole programs, each a shell script that waits before its first command, is watched,
// and let go, so that the watch sees all of it and attaching is not part of the time.
func (h *overhead) programs(list []program) Experiment {
	e := Experiment{Name: "whole programs", Note: programNote, Times: programTimes}
	if len(h.opts.Command) > 0 {
		e.Note, e.Times = commandNote, 1
	}
	var idle *subject.Process
	e.Setup = func(ctx context.Context) (func(), error) {
		mix := filepath.Join(h.st.dir, "mix.txt")
		if err := os.WriteFile(mix, fmt.Appendf(nil, "mix %d\n", mixRounds), 0o600); err != nil {
			return nil, err
		}
		var err error
		idle, err = subject.Start(ctx, h.st.program, subject.Memory(small))
		if err != nil {
			return nil, err
		}
		return idle.Kill, nil
	}
	other := func(int) int { return idle.Pid }
	self := func(pid int) int { return pid }
	e.Variants = []Variant{
		{bare, Yardstick, h.runAll(list, nil, nil, nil)},
		{watchOther, Measured, h.runAll(list, other, nil, nil)},
		{watchIt, Measured, h.runAll(list, self, nil, nil)},
	}
	if h.tools.interposer != "" {
		e.Variants = append(e.Variants, Variant{
			interposed, Other,
			h.runAll(list, nil, nil, []string{"LD_PRELOAD=" + h.tools.interposer}),
		})
	}
	if h.tools.strace != "" {
		e.Variants = append(e.Variants, Variant{
			underTrace, Other,
			h.runAll(list, nil, []string{h.tools.strace, "-f", "-qq", "-o", "/dev/null"}, nil),
		})
	}
	e.Once = []string{interposed, underTrace}
	for _, p := range list {
		e.Targets = append(e.Targets, Target{
			Case: p.name, Variant: watchIt, Metric: programMetric.Name, Of: OfRatio,
			Max: programMaxRatio,
		})
	}
	return e
}

// installed returns the programs to run.
func (h *overhead) installed(ctx context.Context) []program {
	if len(h.opts.Command) > 0 {
		return []program{{name: filepath.Base(h.opts.Command[0])}}
	}
	var list []program
	for _, p := range programList {
		if !h.wanted(p.name) {
			continue
		}
		missing := ""
		for _, n := range p.needs {
			if _, err := exec.LookPath(n); err != nil {
				missing = n
			}
		}
		if missing != "" {
			h.Notes = append(h.Notes, fmt.Sprintf("left out: %s, which needs %s", p.name, missing))
			continue
		}
		if p.name == "python3" {
			h.tools.python = interpreter(ctx)
		}
		list = append(list, p)
	}
	return list
}

// interpreter is the path of python3 itself: what has that name may be a script that looks for it, with a dozen
// programs of its own.
func interpreter(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "python3", "-c", "import sys; print(sys.executable)").Output()
	if path := strings.TrimSpace(string(out)); err == nil && path != "" {
		return path
	}
	return "python3"
}

const (
	programNote = "From the first command of a shell script to its end, and the processor time of all its processes; the watch is attached before it."
	commandNote = "From the command's execve to its end, and the processor time of it and its children; the watch is attached before it."
)

// programTimes is how many runs of the programs there are for each round of the calls: a hundredth of a program's time
// is less than what two runs of it differ by, so its median needs more of them.
const programTimes = 3

// settleTime lets the processor be done with what a watch's beginning and end leave behind, compiled probes and patched
// code, before a program is measured: they are the same few milliseconds for a program that runs for a second and for
// one that runs for a day.
const settleTime = 200 * time.Millisecond

// runAll returns a variant's run of all programs. watched maps a program's pid to the one to watch; nil means none.
func (h *overhead) runAll(list []program, watched func(int) int, prefix, env []string) func(context.Context,
	*Recorder) error {
	return func(ctx context.Context, r *Recorder) error {
		for _, p := range list {
			took, cpu, err := h.runProgram(ctx, p, watched, prefix, env)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			r.Time(p.name, programMetric, took)
			r.Time(p.name, cpuMetric, cpu)
		}
		return nil
	}
}

func (h *overhead) runProgram(ctx context.Context, p program, watched func(int) int, prefix, env []string) (took,
	cpu time.Duration, err error,
) {
	if len(h.opts.Command) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, programTimeout)
		defer cancel()
	}
	g, err := newGate()
	if err != nil {
		return 0, 0, err
	}
	defer g.close()
	cmd := h.command(ctx, p, prefix)
	cmd.Env = append(os.Environ(), env...)
	if h.tools.python != "" {
		cmd.Env = append(cmd.Env, "PYTHON="+h.tools.python)
	}
	cmd.ExtraFiles = g.theirs[:]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	waited := false
	defer func() {
		if !waited {
			_ = cmd.Cancel() // the first error is the one to tell
			_ = cmd.Wait()
		}
	}()
	pid, err := g.await()
	if err != nil {
		return 0, 0, err
	}
	if watched != nil {
		stop, err := h.watch(ctx, watched(pid))
		if err != nil {
			return 0, 0, fmt.Errorf("watch: %w", err)
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	select {
	case <-time.After(settleTime):
	case <-ctx.Done():
	}
	start := time.Now()
	if err := g.open(); err != nil {
		return 0, 0, err
	}
	waited = true
	err = cmd.Wait()
	took = time.Since(start)
	if ctx.Err() != nil {
		return 0, 0, fmt.Errorf("after %s: %w", took.Round(time.Second), context.Cause(ctx))
	}
	return took, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), err
}

// programTimeout is for one of the default programs. strace makes one of them thirty times as long.
const programTimeout = 2 * time.Minute

// gateScript is what a shell does before its work: it says its pid on descriptor 4 and waits for a line on descriptor
// 3.
const gateScript = `echo $$ >&4; read go <&3 || exit 1; exec 3<&- 4>&-; `

// gate holds a shell back until it may go.
type gate struct {
	theirs   [2]*os.File // descriptors 3 and 4 of the shell
	say, ask *os.File    // our ends
}

func newGate() (*gate, error) {
	g := &gate{}
	var err error
	if g.theirs[0], g.say, err = os.Pipe(); err != nil {
		return nil, err
	}
	if g.ask, g.theirs[1], err = os.Pipe(); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// await waits until the shell is at the gate and returns its pid.
func (g *gate) await() (pid int, err error) {
	for _, f := range g.theirs { // or the end of a shell that dies would go unnoticed
		if err := f.Close(); err != nil {
			return 0, err
		}
	}
	if _, err := fmt.Fscan(g.ask, &pid); err != nil {
		return 0, fmt.Errorf("the program ended before it began: %w", err)
	}
	return pid, nil
}

func (g *gate) open() error {
	_, err := g.say.WriteString("go\n")
	return err
}

func (g *gate) close() {
	for _, f := range []*os.File{g.theirs[0], g.theirs[1], g.say, g.ask} {
		_ = f.Close() // closed already, or never opened: either is fine
	}
}

func (h *overhead) command(ctx context.Context, p program, prefix []string) *exec.Cmd {
	args := append(prefix[:len(prefix):len(prefix)], "sh", "-c", gateScript+p.script)
	if len(h.opts.Command) > 0 {
		args = append(prefix[:len(prefix):len(prefix)], append([]string{"sh", "-c", gateScript + `exec "$@"`, "sh"}, h.opts.Command...)...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	if len(h.opts.Command) == 0 {
		cmd.Dir = h.st.dir
	}
	return cmd
}
