package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	toolview "github.com/bpfckpt/bpfckpt/internal/view"
)

// watched is the program most tests of a watch look at.
func watched(t *testing.T) *target {
	t.Helper()
	python, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output() // past wrappers
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("testdata/watched.py")
	if err != nil {
		t.Fatal(err)
	}
	return start(t, program{name: "watched", argv: []string{strings.TrimSpace(string(python)), script}})
}

// watch is a running `bpfckpt watch`.
type watch struct {
	cmd      *exec.Cmd
	out, err string // files
	done     chan struct{}
}

// watch starts one, and waits until it has said what the state is.
func (tg *target) watch(args ...string) *watch {
	tg.t.Helper()
	w := &watch{out: tg.path("watch.out"), err: tg.path("watch.err"), done: make(chan struct{})}
	w.cmd = exec.Command(built.cmd, append([]string{"watch", strconv.Itoa(tg.pid)}, args...)...)
	out, err := os.Create(w.out)
	if err == nil {
		w.cmd.Stdout = out
		w.cmd.Stderr, err = os.Create(w.err)
	}
	if err == nil {
		err = w.cmd.Start()
	}
	closeFiles(w.cmd)
	if err != nil {
		tg.t.Fatal(err)
	}
	go func() {
		_ = w.cmd.Wait()
		close(w.done)
	}()
	tg.t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		<-w.done
	})
	tg.poll("the first line of the watch", func() bool { return strings.Contains(slurp(w.out), "\n") || w.ended() })
	return w
}

func (w *watch) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// wait waits for the end of the watch and returns its exit status.
func (w *watch) wait(tg *target) int {
	tg.t.Helper()
	tg.poll("the end of the watch", w.ended)
	return w.cmd.ProcessState.ExitCode()
}

// watchLine is a line of `watch --json`, as far as the tests read it.
type watchLine struct {
	Event    string
	Pid      int
	Len      uint64
	FD       *int
	From     *int
	Path     string
	Resolved string
	Signal   any // a number in events, a name at the end
	Limit    string
	Cur      uint64
	Status   any // text in events, a number at the end
	Ended    bool
	Table    struct {
		Processes, Threads, Maps, FDs, Handlers, DL int
		Events, Lost, Drift                         uint64
	}
}

func watchLines(t *testing.T, text string) (lines []watchLine) {
	t.Helper()
	for line := range strings.Lines(text) {
		var l watchLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		lines = append(lines, l)
	}
	return lines
}

// TestWatch watches a program from its middle to its end: the state at once, what it does then, and what its child
// does.
func TestWatch(t *testing.T) {
	t.Parallel()
	tg := watched(t)
	w := tg.watch("--json")
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", tg.pid))
	if err != nil {
		t.Fatal(err)
	}
	text := slurp(fmt.Sprintf("/proc/%d/maps", tg.pid))
	maps := strings.Count(text, "\n") - strings.Count(text, "[vsyscall]") // which no process has of its own
	tg.goOn()
	if status := w.wait(tg); status != 0 {
		t.Fatalf("status %d: %s", status, slurp(w.err))
	}
	lines := watchLines(t, slurp(w.out))
	first, last := lines[0], lines[len(lines)-1]
	if s := first.Table; first.Event != "state" || s.Processes != 1 || s.Threads != 1 || s.FDs != len(fds) ||
		s.Maps < maps-8 || s.Maps > maps {
		// adjacent mappings of the same make are one
		t.Errorf("first line %+v, with %d descriptors and %d mappings", first, len(fds), maps)
	}
	if status, ok := last.Status.(float64); last.Event != "end" || !last.Ended || !ok || status != 7 {
		t.Errorf("last line %+v", last)
	}
	for what, is := range map[string]func(l watchLine) bool{
		"mmap":   func(l watchLine) bool { return l.Event == "mmap" && l.Len == 12345 },
		"munmap": func(l watchLine) bool { return l.Event == "munmap" && l.Len == 12345 },
		"dlopen": func(l watchLine) bool { return l.Event == "dlopen" && l.Path == "libm.so.6" },
		"open": func(l watchLine) bool {
			return l.Event == "openat" && l.Path == "./link" && l.Resolved == "/etc/passwd"
		},
		"dup": func(l watchLine) bool {
			return l.Event == "dup2" && l.FD != nil && *l.FD == 77 && l.Resolved == "/etc/passwd"
		},
		"sigaction": func(l watchLine) bool { return l.Event == "rt_sigaction" && l.Signal == float64(unix.SIGUSR1) },
		"setrlimit": func(l watchLine) bool { return l.Limit == "core" && l.Cur == 4321 },
		"a call of the child": func(l watchLine) bool {
			return l.Event == "openat" && l.Pid != tg.pid && l.Path == "/dev/zero"
		},
		"the end of the child": func(l watchLine) bool {
			return l.Event == "exit" && l.Pid != tg.pid &&
				l.Status == "exit 3"
		},
	} {
		found := false
		for _, l := range lines {
			found = found || is(l)
		}
		if !found {
			t.Errorf("no line: %s", what)
		}
	}
	if t.Failed() {
		t.Log(slurp(w.out))
	}
}

// TestWatchTellsTheSignal looks at the last line of a piped watch, whose figures must be those of all lines before.
func TestWatchTellsTheSignal(t *testing.T) {
	t.Parallel()
	tg := watched(t)
	w := tg.watch()
	if err := os.WriteFile(tg.path("signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tg.goOn()
	status := w.wait(tg)
	lines := strings.Split(strings.TrimSpace(slurp(w.out)), "\n")
	want := fmt.Sprintf(`^%d python3?[0-9.]*: it was killed by SIGTERM; %d events, 0 lost, 0 not shown$`, tg.pid, len(lines)-2)
	if last := lines[len(lines)-1]; status != 0 || !regexp.MustCompile(want).MatchString(last) {
		t.Errorf("status %d, last line %q instead of %s", status, last, want)
	}
}

// TestWatchInterrupted ends a watch with SIGINT: it says so, and the program runs on.
func TestWatchInterrupted(t *testing.T) {
	t.Parallel()
	tg := watched(t)
	w := tg.watch()
	v, err := toolview.Own()
	if err != nil {
		t.Fatal(err)
	}
	id, err := v.Process(tg.pid)
	if err != nil {
		t.Fatal(err)
	}
	sockets := []string{
		fmt.Sprintf("/run/bpfckpt/watch-%s.sock", id),
		fmt.Sprintf("/run/bpfckpt/watch-%d.sock", tg.pid),
	}
	for _, sock := range sockets {
		if st, err := os.Stat(sock); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("control socket: %v, %v", st, err)
		}
	}
	if out, _, _ := tg.ckpt("watch", "--list"); !regexp.MustCompile(fmt.Sprintf(`(?m)^%d +python\S* +%d `, tg.pid, w.cmd.Process.Pid)).MatchString(out) {
		t.Errorf("--list: %s", out)
	}
	if err := w.cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if status := w.wait(tg); status != 0 || !strings.Contains(slurp(w.out), "the process runs on") {
		t.Errorf("status %d: %s%s", status, slurp(w.out), slurp(w.err))
	}
	for _, sock := range append(sockets, fmt.Sprintf("/run/bpfckpt/watch-%s.lock", id)) {
		if _, err := os.Lstat(sock); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", sock, err)
		}
	}
	tg.goOn()
	if status := tg.join(); status != 7 {
		t.Errorf("the program ended with status %d", status)
	}
}

var (
	progID = regexp.MustCompile(`(?m)^prog_id:\s*(\d+)$`)
	linkID = regexp.MustCompile(`(?m)^link_id:\s*(\d+)$`)
)

// held lists the BPF programs and links that a process holds.
func held(t *testing.T, pid int) (programs, links map[int]bool) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	programs, links = map[int]bool{}, map[int]bool{}
	for _, f := range files {
		text := slurp(f)
		for re, ids := range map[*regexp.Regexp]map[int]bool{progID: programs, linkID: links} {
			if m := re.FindStringSubmatch(text); m != nil {
				id, _ := strconv.Atoi(m[1])
				ids[id] = true
			}
		}
	}
	return programs, links
}

// TestWatchKilled kills a watch the hard way: the kernel takes its programs away, and the program is as it was.
func TestWatchKilled(t *testing.T) {
	t.Parallel()
	tg := watched(t)
	w := tg.watch()
	programs, links := held(t, w.cmd.Process.Pid)
	if len(programs) < 5 || len(links) < 5 {
		t.Fatalf("the watch holds programs %v and links %v", programs, links)
	}
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	tg.poll("the end of all probes", func() bool {
		for id := range programs {
			if p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id)); err == nil {
				p.Close()
				return false
			}
		}
		for id := range links {
			if l, err := link.NewFromID(link.ID(id)); err == nil {
				l.Close()
				return false
			}
		}
		return true
	})
	t.Logf("%d programs and %d links were gone after %v", len(programs), len(links), time.Since(began))
	if !tg.running() {
		t.Error("the program is traced or gone")
	}
	tg.snap("--source", "iter") // finds no breakpoint in its code
	if out, _, _ := tg.ckpt("watch", "--list"); strings.Contains(out, strconv.Itoa(tg.pid)) {
		t.Errorf("--list: %s", out)
	}
	tg.goOn()
	if status := tg.join(); status != 7 {
		t.Errorf("the program ended with status %d", status)
	}
}

// TestSnapUnderWatch lets the watch take the snapshot, and brings the program back from it.
func TestSnapUnderWatch(t *testing.T) {
	t.Parallel()
	tg := watched(t)
	w := tg.watch()
	s := tg.snap()
	if s.Table.Source != "watch" {
		t.Errorf("the source was %q", s.Table.Source)
	}
	if err := w.cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	w.wait(tg)
	tg.kill()
	tg.restore()
	tg.goOn()
	if status := tg.join(); status != 7 {
		t.Errorf("the program ended with status %d after the restore: %s", status, tg.read("restore.err"))
	}
}

// TestWithoutBPF takes away what BPF needs: a watch says what is missing and what to do, and a snapshot comes from
// /proc.
func TestWithoutBPF(t *testing.T) {
	t.Parallel()
	const caps = "-sys_admin,-bpf,-perfmon"
	for _, c := range []struct {
		name   string
		prefix []string
		want   []string
	}{
		{
			"no rights",
			[]string{"setpriv", "--bounding-set", caps, "--inh-caps", caps},
			[]string{"E_BPF_RIGHTS", "CAP_BPF and CAP_PERFMON missing", "run as root", "--source proc"},
		},
		{
			// The target is in the mount namespace too: others are refused.
			"no BTF",
			[]string{"nsenter", "-m", "-t", "PID"},
			[]string{"E_BPF_NO_BTF", "/sys/kernel/btf/vmlinux is not there", "CONFIG_DEBUG_INFO_BTF", "--source proc"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if os.Getenv("BPFCKPT_GUEST") != "" {
				t.Skip("guests have neither setpriv nor nsenter of util-linux")
			}
			var tg *target
			if c.name == "no BTF" {
				tg = start(t, program{name: "no BTF", argv: []string{
					"/usr/bin/unshare", "-m", "/bin/sh", "-c",
					"mount -t tmpfs none /sys/kernel/btf && echo READY && exec " +
						filepath.Join(built.dir, "counter-example"),
				}, wait: computes})
			} else {
				tg = watched(t)
			}
			prefix := strings.Split(strings.ReplaceAll(strings.Join(c.prefix, " "), "PID", strconv.Itoa(tg.pid)), " ")
			run := func(args ...string) (stdout, stderr string, status int) {
				all := append(append(prefix, built.cmd), args...)
				cmd := exec.Command(all[0], all[1:]...)
				cmd.Dir = tg.dir
				var out, errs bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &errs
				_ = cmd.Run()
				return out.String(), errs.String(), cmd.ProcessState.ExitCode()
			}
			_, errs, status := run("watch", strconv.Itoa(tg.pid))
			if status != 3 {
				t.Errorf("watch: status %d", status)
			}
			for _, want := range c.want {
				if !strings.Contains(errs, want) {
					t.Errorf("watch says %q, without %q", errs, want)
				}
			}
			out, errs, status := run("snap", strconv.Itoa(tg.pid), "--dir", tg.path("image"), "--json")
			var s snapped
			if err := json.Unmarshal([]byte(out), &s); err != nil || status != 0 || s.Table.Source != "proc" {
				t.Errorf("snap: status %d, source %q: %s", status, s.Table.Source, errs)
			}
		})
	}
}
