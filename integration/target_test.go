package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/testprog"
)

// wait says how a program goes on after READY.
type wait int

const (
	waitsForGo wait = iota // it polls for the file "go", in nanosleep most of the time
	inACall                // it is about to enter a system call that waits
	computes               // it computes; a snapshot hits it anywhere
)

// program is one case: what to run, and how to treat it.
type program struct {
	name   string
	argv   []string
	args   int // how many of argv come before the number of steps, if that can be chosen
	wait   wait
	goFile string        // "" for "go"
	outage time.Duration // how long the program does not exist between kill and restore
	output []string      // files it writes whose content counts, besides its standard output
	loses  []string      // kernel-view keys that may differ after a restore, each with a reason where it is set
	status int           // the exit status that is allowed to mean "this machine lacks the thing", 0 for none
}

// limit is how long any one step of a test may take. It is generous: the machine may be busy.
const limit = 60 * time.Second

func (p program) command() []string {
	argv := append([]string(nil), p.argv...)
	if !strings.Contains(argv[0], "/") {
		argv[0] = filepath.Join(built.dir, argv[0])
	}
	return argv
}

// target is a running program. Its directory holds its files and its image.
type target struct {
	t   *testing.T
	p   program
	dir string
	cmd *exec.Cmd
	pid int
	exe string // what /proc/PID/exe led to at the start
	// closed when cmd, the current incarnation or the restore command in front of it, has been waited for
	done chan struct{}
}

// start runs a program and waits for READY.
func start(t *testing.T, p program) *target {
	t.Helper()
	tg := prepare(t, p)
	tg.launch(nil)
	tg.waitReady()
	return tg
}

// prepare makes the target's directory. Its parents can be searched by everybody, for programs that drop their
// privileges.
func prepare(t *testing.T, p program) *target {
	t.Helper()
	dir, err := os.MkdirTemp(built.dir, "run-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	tg := &target{t: t, p: p, dir: dir}
	t.Cleanup(func() {
		tg.kill()
		if tg.pid != 0 {
			testprog.RemoveSemaphores(tg.pid)
		}
		os.RemoveAll(dir)
	})
	return tg
}

// launch starts the program with standard output in the file "out" and standard error in "err".
func (tg *target) launch(attr *syscall.SysProcAttr) {
	tg.t.Helper()
	argv := tg.p.command()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = attr
	tg.run(cmd, "out", "err")
	tg.pid = cmd.Process.Pid
	tg.awaitExe()
}

// awaitExe notes which program runs. On a slow machine the link can still lead to ourselves when Start returns.
func (tg *target) awaitExe() {
	tg.t.Helper()
	own, _ := os.Readlink("/proc/self/exe")
	tg.poll("the start", func() bool {
		tg.exe, _ = os.Readlink(fmt.Sprintf("/proc/%d/exe", tg.pid))
		return tg.exe != own
	})
}

// run starts cmd in the target's directory and waits for it in the background.
func (tg *target) run(cmd *exec.Cmd, stdout, stderr string) {
	tg.t.Helper()
	cmd.Dir = tg.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var err error
	if cmd.Stdout == nil {
		cmd.Stdout, err = os.Create(filepath.Join(tg.dir, stdout))
	}
	if err == nil && cmd.Stderr == nil {
		cmd.Stderr, err = os.Create(filepath.Join(tg.dir, stderr))
	}
	if err == nil {
		err = cmd.Start()
	}
	closeFiles(cmd)
	if err != nil {
		tg.t.Fatal(err)
	}
	done := make(chan struct{})
	tg.cmd, tg.done = cmd, done
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
}

func closeFiles(cmd *exec.Cmd) {
	for _, w := range []any{cmd.Stdout, cmd.Stderr} {
		if f, ok := w.(*os.File); ok {
			f.Close()
		}
	}
}

func (tg *target) path(name string) string { return filepath.Join(tg.dir, name) }

func (tg *target) read(name string) string {
	b, err := os.ReadFile(tg.path(name))
	if err != nil {
		return ""
	}
	return string(b)
}

// poll calls ok until it is true.
func (tg *target) poll(what string, ok func() bool) {
	tg.t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			tg.t.Fatalf("%s: %s did not happen; output:\n%s%s", tg.p.name, what, tg.read("out"), tg.read("err"))
		}
	}
}

// waitReady waits for READY, and unless the program computes until it is asleep: in its call, or waiting for the file.
func (tg *target) waitReady() {
	tg.t.Helper()
	tg.poll("READY", func() bool {
		return strings.Contains("\n"+tg.read("out"), "\nREADY\n") || tg.ended()
	})
	if tg.p.wait != computes {
		tg.poll("going to sleep", func() bool { return tg.asleep() || tg.ended() })
	}
}

// asleep reports whether the leader sleeps, twice in a row.
func (tg *target) asleep() bool {
	for range 2 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", tg.pid))
		if err != nil || !bytes.Contains(b, []byte(") S ")) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true
}

// ended reports whether the current incarnation has been waited for.
func (tg *target) ended() bool {
	select {
	case <-tg.done:
		return true
	default:
		return false
	}
}

// join waits for the end and returns the exit status, 128 + N for a signal N.
func (tg *target) join() int {
	tg.t.Helper()
	select {
	case <-tg.done:
	case <-time.After(limit):
		tg.t.Fatalf("%s does not end; output:\n%s%s", tg.p.name, tg.read("out"), tg.read("err"))
	}
	ws := tg.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// kill kills the tree with SIGKILL and waits until every pid of it is free. It may be called at any time.
func (tg *target) kill() {
	if tg.cmd == nil {
		return
	}
	tree := descendants(tg.pid)
	if tg.ended() && len(tree) == 1 && syscall.Kill(tg.pid, 0) != nil {
		return
	}
	for _, pid := range tree {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if tg.cmd.Process.Pid != tg.pid {
		select { // a restore in front of the target ends by itself when the target is gone
		case <-tg.done:
		case <-time.After(5 * time.Second):
			_ = tg.cmd.Process.Kill()
		}
	}
	select {
	case <-tg.done:
	case <-time.After(limit):
		tg.t.Errorf("%s: pid %d does not die", tg.p.name, tg.pid)
	}
	for _, pid := range tree {
		reap(tg.t, pid)
	}
}

// reap waits until pid is gone: orphans are ours, a subreaper's, to wait for.
func reap(t *testing.T, pid int) {
	for end := time.Now().Add(limit); syscall.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		var ws syscall.WaitStatus
		_, _ = syscall.Wait4(pid, &ws, syscall.WNOHANG, nil)
		if time.Now().After(end) {
			t.Errorf("pid %d is still there", pid)
			return
		}
	}
}

// descendants returns pid and every process below it.
func descendants(pid int) []int {
	list := []int{pid}
	for i := 0; i < len(list); i++ {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", list[i]))
		for _, name := range tasks {
			b, _ := os.ReadFile(name)
			for _, f := range strings.Fields(string(b)) {
				if child, err := strconv.Atoi(f); err == nil {
					list = append(list, child)
				}
			}
		}
	}
	return list
}

// goOn lets the program continue after READY.
func (tg *target) goOn() {
	tg.t.Helper()
	name := tg.p.goFile
	if name == "" {
		name = "go"
	}
	if err := os.WriteFile(tg.path(name), nil, 0o644); err != nil {
		tg.t.Fatal(err)
	}
}

// result is what a run amounts to.
type result struct {
	status int
	out    string
	files  map[string]string
}

func (r result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "status %d\n%s", r.status, tail(r.out))
	for name, content := range r.files {
		fmt.Fprintf(&b, "--- %s (%d bytes)\n%s", name, len(content), tail(content))
	}
	return b.String()
}

func tail(s string) string {
	if len(s) > 600 {
		return "[...]" + s[len(s)-600:]
	}
	return s
}

// finish waits for the end and collects the result.
func (tg *target) finish() result {
	tg.t.Helper()
	r := result{status: tg.join(), out: tg.read("out"), files: map[string]string{}}
	for _, name := range tg.p.output {
		r.files[name] = tg.read(name)
	}
	return r
}

// same fails the test unless both runs amount to the same.
func same(t *testing.T, what string, have, want result) {
	t.Helper()
	if have.String() != want.String() || have.out != want.out {
		t.Errorf("%s: have\n%s\nwant\n%s", what, have, want)
		return
	}
	for name := range want.files {
		if have.files[name] != want.files[name] {
			t.Errorf("%s: %s differs", what, name)
		}
	}
}

var controls sync.Map // program name -> func() result

// control is the result of an uninterrupted run, made once for each program.
func control(t *testing.T, p program) result {
	t.Helper()
	once, _ := controls.LoadOrStore(p.name, sync.OnceValue(func() result {
		tg := start(t, p)
		tg.goOn()
		return tg.finish()
	}))
	return once.(func() result)()
}

// ckpt runs the command with args in the target's directory; its exit status is not an error.
func (tg *target) ckpt(args ...string) (stdout, stderr string, status int) {
	tg.t.Helper()
	return ckptIn(tg.t, tg.dir, args...)
}

func ckptIn(t *testing.T, dir string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, built.cmd, args...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// snapped is the answer of `snap --json`, as far as the tests read it.
type snapped struct {
	Dir      string `json:"dir"`
	ID       string `json:"id"`
	Parent   string `json:"parent"`
	Pids     []int  `json:"pids"`
	FreezeUS *int64 `json:"freeze_us"`
	WallUS   *int64 `json:"wall_us"`
	Pages    *int64 `json:"pages_written"`
	Bytes    *int64 `json:"bytes_written"`
	Shared   int64  `json:"pages_shared"`
	Tracking string `json:"tracking"`
	Table    struct {
		Source string `json:"source"`
		Lost   int    `json:"lost"`
		Drift  int    `json:"drift"`
	} `json:"table"`
	Notes []string `json:"notes"`
}

// snap takes a snapshot into the target's directory "image".
func (tg *target) snap(flags ...string) snapped {
	tg.t.Helper()
	s, errs, status := tg.trySnap(flags...)
	if status != 0 {
		tg.t.Fatalf("%s: snap: status %d: %s", tg.p.name, status, errs)
	}
	return s
}

// trySnap is snap, whose failure is not one of the test.
func (tg *target) trySnap(flags ...string) (s snapped, stderr string, status int) {
	tg.t.Helper()
	args := append([]string{"snap", strconv.Itoa(tg.pid), "--dir", "image", "--json"}, flags...)
	out, errs, status := tg.ckpt(args...)
	if status != 0 {
		return s, errs, status
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		tg.t.Fatalf("snap --json: %v in %q", err, out)
	}
	if s.Table.Drift != 0 {
		tg.t.Errorf("%s: the two readings of the kernel state differ in %d fields", tg.p.name, s.Table.Drift)
	}
	return s, errs, status
}

// restore brings the target back in the foreground of a restore command, which becomes the incarnation that join waits
// for.
func (tg *target) restore(args ...string) {
	tg.t.Helper()
	tg.startRestore(args...)
	tg.waitRestored()
}

// startRestore starts the restore command and returns at once. The target's standard streams are its own files,
// reopened by name.
func (tg *target) startRestore(args ...string) {
	tg.t.Helper()
	if len(args) == 0 {
		args = []string{"image"}
	}
	tg.run(exec.Command(built.cmd, append([]string{"restore"}, args...)...), "restore.out", "restore.err")
}

// waitRestored waits until the restored process runs untraced below the restore command.
func (tg *target) waitRestored() {
	tg.t.Helper()
	tg.poll("the restore", func() bool { return tg.ended() || tg.running() })
	if tg.ended() && (tg.cmd.ProcessState.ExitCode() != 0 || tg.read("restore.err") != "") {
		tg.t.Logf("%s: restore ended with %v: %s", tg.p.name, tg.cmd.ProcessState, tg.read("restore.err"))
	}
}

// running reports whether the process is there, is the program and has no tracer.
func (tg *target) running() bool {
	status := slurp(fmt.Sprintf("/proc/%d/status", tg.pid))
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", tg.pid))
	return strings.Contains(status, "\nTracerPid:\t0\n") && err == nil && sameExe(exe, tg.exe)
}

// interrupt kills the target, waits for the outage and brings it back.
func (tg *target) interrupt() {
	tg.t.Helper()
	tg.kill()
	if tg.p.outage > 0 {
		text := fmt.Sprint(tg.p.outage.Milliseconds())
		if err := os.WriteFile(tg.path("outage"), []byte(text), 0o644); err != nil {
			tg.t.Fatal(err)
		}
		time.Sleep(tg.p.outage)
	}
	tg.restore()
}

// sameExe reports whether a process runs the program that it is to run. One whose executable has lost its name has none
// to compare.
func sameExe(have, want string) bool { return have == want || unlinkedName.MatchString(have) }
