package dirty

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/pagemap"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/testprog"
)

var programs testprog.Cache

func TestMain(m *testing.M) {
	if os.Getenv(killEnv) != "" {
		armForever()
	}
	code := m.Run()
	programs.Remove()
	os.Exit(code)
}

// backends returns a tracker of each kind that works on this kernel. The kernel matrix has one for each kind.
func backends(t *testing.T) []Tracker {
	t.Helper()
	var out []Tracker
	for _, name := range []string{UffdWP, SoftDirty, Compare} {
		tr, err := New(name)
		if err != nil {
			t.Logf("%s: %v", name, err)
			continue
		}
		t.Cleanup(func() { _ = tr.Close() })
		out = append(out, tr)
	}
	return out
}

// writer is the test program under our command.
type writer struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader

	armed int // how often
}

func start(t *testing.T) *writer {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "content"), bytes.Repeat([]byte("content "), 64<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	w := &writer{t: t, cmd: exec.Command(programs.Build(t, "testdata/writer.c"))}
	w.cmd.Dir = dir
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.in.Close()
		_ = w.cmd.Wait() // at the end of its input it kills its child and ends
	})
	w.out = bufio.NewReader(out)
	w.answer("start")
	return w
}

func (w *writer) pid() int { return w.cmd.Process.Pid }

func (w *writer) do(format string, args ...any) string {
	w.t.Helper()
	op := fmt.Sprintf(format, args...)
	if _, err := fmt.Fprintln(w.in, op); err != nil {
		w.t.Fatalf("%s: %v", op, err)
	}
	return w.answer(op)
}

func (w *writer) answer(op string) string {
	w.t.Helper()
	line, err := w.out.ReadString('\n')
	if err != nil {
		w.t.Fatalf("%s: the program answers %q, %v, %v", op, line, err, w.cmd.Wait())
	}
	return strings.TrimSpace(line)
}

// stopped runs f while the program is stopped by ptrace.
func (w *writer) stopped(f func(g *ptrace.Group)) {
	w.t.Helper()
	pt := ptrace.New()
	defer pt.Close()
	g, err := pt.Freeze(context.Background(), []int{w.pid()}, 5*time.Second)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() {
		if err := g.Thaw(); err != nil {
			w.t.Error(err)
		}
	}()
	f(g)
}

func (w *writer) attach(tr Tracker) {
	w.t.Helper()
	w.stopped(func(g *ptrace.Group) {
		if err := tr.Attach(g, w.pid()); err != nil {
			w.t.Fatal(err)
		}
	})
}

// pages is the content a process has for itself, by address.
type pages map[uint64][]byte

// contents reads all content without any tracker.
func (w *writer) contents() pages {
	w.t.Helper()
	out := pages{}
	th := ptrace.Thread{Pid: w.pid(), Tid: w.pid()}
	err := Everything(w.pid(), w.spans(), func(r Run) error {
		if r.State == Guard {
			return nil
		}
		buf := make([]byte, r.End-r.Start)
		if err := th.Peek(r.Start, buf); err != nil {
			return fmt.Errorf("%x-%x: %w", r.Start, r.End, err)
		}
		for at := r.Start; at < r.End; at += pagemap.PageSize {
			out[at] = buf[at-r.Start:][:pagemap.PageSize:pagemap.PageSize]
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *writer) spans() []Span {
	w.t.Helper()
	maps, err := procfs.Pid(w.pid()).Maps()
	if err != nil {
		w.t.Fatal(err)
	}
	var out []Span
	for _, m := range maps {
		switch n := len(out); {
		case strings.HasPrefix(m.Name, "[v"):
		case n > 0 && m.Start-out[n-1].End < spanGap:
			out[n-1].End = m.End
		default:
			out = append(out, Span{Start: m.Start, End: m.End})
		}
	}
	return out
}

// dirty asks the tracker and returns the state of every page.
func (w *writer) dirty(tr Tracker) map[uint64]State {
	w.t.Helper()
	out := map[uint64]State{}
	last := uint64(0)
	err := tr.Dirty(w.pid(), w.spans(), func(r Run) error {
		if r.Start < last || r.End <= r.Start {
			w.t.Errorf("run %x-%x after %x", r.Start, r.End, last)
		}
		last = r.End
		for at := r.Start; at < r.End; at += pagemap.PageSize {
			out[at] = r.State
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// check holds what a tracker says against what is in memory, and against what was there when it was armed. It returns
// how many pages are Written and how many have really changed.
func (w *writer) check(tr Tracker, before pages) (written, changed int) {
	w.t.Helper()
	states := w.dirty(tr)
	now := w.contents()
	for at, b := range now {
		state, ok := states[at]
		old, had := before[at]
		same := had && bytes.Equal(old, b)
		if !same {
			changed++
		}
		switch {
		case !ok:
			w.t.Errorf("page %x has content and is not reported", at)
		case state == Guard:
			w.t.Errorf("page %x has content and is reported as a guard", at)
		case state == Clean && !same:
			w.t.Errorf("page %x is reported as clean; it was there: %v", at, had)
		}
	}
	for at, state := range states {
		if state == Written {
			written++
		}
		if _, ok := now[at]; !ok && state != Guard {
			w.t.Errorf("page %x is reported and has no content", at)
		}
	}
	return written, changed
}

// arm makes everything clean and returns what was there then.
func (w *writer) arm(tr Tracker) pages {
	w.t.Helper()
	var written []Span
	if w.armed++; w.armed%2 == 0 { // as after a snapshot: the program waits for a command
		err := tr.Dirty(w.pid(), w.spans(), func(r Run) error {
			if r.State == Written {
				written = append(written, Span{Start: r.Start, End: r.End})
			}
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	if err := tr.Arm(w.pid(), written); err != nil {
		w.t.Fatal(err)
	}
	return w.contents()
}

// randomStep does one thing out of many.
func (w *writer) randomStep(r *rand.Rand) string {
	s, a, n := r.IntN(12), r.IntN(40), 1+r.IntN(12)
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	var op string
	switch r.IntN(16) {
	case 0, 1, 2:
		op = fmt.Sprintf("map %d %d 0 %s", s, 1+r.IntN(60), pick("anon", "file", "shared", "anon"))
	case 3:
		op = fmt.Sprintf("map %d 1100 0 huge", s)
	case 4:
		op = fmt.Sprintf("remap %d 0 0 %s", s, pick("anon", "file"))
	case 5:
		op = fmt.Sprintf("unmap %d", s)
	case 6:
		op = fmt.Sprintf("resize %d %d", s, 1+r.IntN(80))
	case 7:
		op = fmt.Sprintf("move %d", s)
	case 8:
		op = fmt.Sprintf("read %d %d %d", s, a, n)
	case 9, 10:
		op = fmt.Sprintf("advise %d %d %d %s", s, a, n,
			pick("dontneed", "free", "pageout", "collapse", "guard", "remove"))
	case 11:
		op = fmt.Sprintf("protect %d 0 0 %s", s, pick("none", "ro", "rw", "rw"))
	case 12:
		op = pick("fork", "brk 0 1", "brk 0 5")
	default:
		op = fmt.Sprintf("write %d %d %d", s, a, n)
	}
	w.do("%s", op)
	return op
}

// TestConformance drives a program at random and checks after each step that nothing that changed is reported as clean.
func TestConformance(t *testing.T) {
	for _, tr := range backends(t) {
		t.Run(tr.Name(), func(t *testing.T) {
			written, changed := 0, 0
			for seed := range uint64(12) {
				r := rand.New(rand.NewPCG(seed, 7))
				w := start(t)
				w.attach(tr)
				before := w.arm(tr)
				var ops []string
				for range 60 {
					ops = append(ops, w.randomStep(r))
					a, b := w.check(tr, before)
					if t.Failed() {
						t.Fatalf("seed %d after %s", seed, strings.Join(ops[max(0, len(ops)-12):], ", "))
					}
					if r.IntN(5) == 0 {
						written, changed = written+a, changed+b
						before = w.arm(tr)
					}
				}
				tr.Forget(w.pid())
			}
			t.Logf("%d pages reported as written, %d had changed", written, changed)
			if tr.Name() == UffdWP && written > 4*changed {
				t.Error("that is far too many")
			}
		})
	}
}

// TestExactly checks that in memory that stays as it is, the pages written are reported and hardly any other.
func TestExactly(t *testing.T) {
	for _, tr := range backends(t) {
		if tr.Name() == Compare {
			continue // it reports everything
		}
		t.Run(tr.Name(), func(t *testing.T) {
			w := start(t)
			w.do("map 0 4000 0 small")
			w.do("write 0 0 4000")
			w.do("map 1 100 0 file")
			w.do("write 1 0 80")
			w.attach(tr)
			before := w.arm(tr)
			for i := range 50 {
				w.do("write 0 %d 1", i*71)
			}
			w.do("write 1 50 100")
			written, changed := w.check(tr, before)
			more := 8
			if tr.Name() == UffdWP {
				more += 80 + 30 // changed pages of files: the mapping's, and those of the libraries
			}
			if changed < 100 || written > changed+more {
				t.Errorf("%d pages are reported, %d have changed", written, changed)
			}
		})
	}
}

// TestEndsMeanwhile kills the program, or has it execute another, as soon as the first of its pages is reported, and
// when the last is.
func TestEndsMeanwhile(t *testing.T) {
	for _, tr := range backends(t) {
		for _, name := range []string{"end", "end at the last", "exec", "before"} {
			t.Run(tr.Name()+"/"+name, func(t *testing.T) {
				w := start(t)
				w.do("map 0 4000 0 anon")
				w.attach(tr)
				if !tr.Live(w.pid()) {
					return // its process stands still, and cannot end
				}
				w.arm(tr)
				w.do("write 0 0 4000")
				reported := 0
				var spans []Span // all memory
				if name == "end at the last" {
					at, err := strconv.ParseUint(w.do("where 0"), 16, 64)
					if err != nil {
						t.Fatal(err)
					}
					spans = []Span{{Start: at, End: at + 4000*pagemap.PageSize, Anon: true}}
				}
				if name == "before" {
					w.kill()
				}
				err := tr.Rearm(w.pid(), spans, func(Run) error {
					if reported++; reported == 1 && name == "exec" {
						w.do("exec")
					} else if reported == 1 {
						w.kill()
					}
					return nil
				})
				t.Logf("%d runs reported, then: %v", reported, err)
				followed, _ := tr.Serves(w.pid())
				switch {
				case (reported == 0) != (name == "before"):
					t.Error("that is not what was written")
				case name == "exec" && (err != nil || followed):
					t.Errorf("want nothing more of it, got %v; followed: %v", err, followed)
				case strings.HasPrefix(name, "end") && !errors.Is(err, &fault.Error{Code: fault.TargetGone}):
					t.Errorf("want E_TARGET_GONE, got %v", err)
				}
			})
		}
	}
}

// kill kills the program and waits for its end.
func (w *writer) kill() {
	w.in.Close()
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
}

// TestExecOwnAndFork covers what makes an answer worthless unless it is noticed.
func TestExecOwnAndFork(t *testing.T) {
	for _, tr := range backends(t) {
		t.Run(tr.Name(), func(t *testing.T) {
			w := start(t)
			w.do("map 0 50 0 anon")
			w.do("write 0 0 50")
			w.attach(tr)
			before := w.arm(tr)
			w.do("fork") // the child writes to what it shares with its parent
			w.do("write 0 20 9")
			w.check(tr, before)
			w.do("exec")
			w.do("brk 0 1") // the new program's first reading of a command makes buffers after it has answered
			w.check(tr, nil)
			if err := tr.Rearm(w.pid(), nil, func(Run) error { return nil }); err != nil {
				t.Fatal(err)
			}
			w.check(tr, w.contents())
		})
	}
}

// TestOwnUserfaultfd checks that a process that uses userfaultfd itself is not followed, and that this is said.
func TestOwnUserfaultfd(t *testing.T) {
	tr, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	w := start(t)
	w.do("map 0 8 0 anon")
	w.do("write 0 0 8")
	if got := w.do("own 0"); got != "yes" {
		t.Logf("it cannot: %s", got) // vm.unprivileged_userfaultfd, or no userfaultfd in this kernel
	}
	w.attach(tr)
	before := w.arm(tr)
	w.do("write 0 3 2")
	w.check(tr, before)
	if tr.Name() != UffdWP {
		return
	}
	if followed, why := tr.Serves(w.pid()); followed || !strings.Contains(why, "another userfaultfd") {
		t.Errorf("followed: %v, %q", followed, why)
	}
}

// TestOwnMarks checks that a process that follows its own writes as we do loses none of its marks to us, in memory that
// we follow and in other.
func TestOwnMarks(t *testing.T) {
	for _, kind := range []string{"anon", "shared", "file"} {
		t.Run(kind, func(t *testing.T) {
			tr, err := New("")
			if err != nil {
				t.Fatal(err)
			}
			defer tr.Close()
			w := start(t)
			for slot := range 4 { // memory of ours on both sides
				how := "anon"
				if slot == 2 {
					how = kind
				}
				w.do("map %d 8 0 %s", slot, how)
				w.do("write %d 0 8", slot)
			}
			got := w.do("own 2 0 0 async")
			if (got == "yes") != (tr.Name() == UffdWP) {
				t.Fatalf("the program answers %s on a kernel where the best backend is %s", got, tr.Name())
			}
			if got != "yes" {
				return // this kernel has nothing of the kind
			}
			at, err := strconv.ParseUint(w.do("where 2"), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			marks := func() (marked uint64) {
				m, err := pagemap.Open(w.pid())
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				q := pagemap.Query{All: pagemap.WPAllowed | pagemap.Written, Return: pagemap.Written}
				if err := m.Walk(at, at+8*pagemap.PageSize, q, func(r pagemap.Region) error {
					marked += (r.End - r.Start) / pagemap.PageSize
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				return marked
			}
			if n := marks(); n != 8 {
				t.Fatalf("%d pages are marked as written before", n)
			}
			w.attach(tr)
			before := w.arm(tr)
			if err := tr.Rearm(w.pid(), nil, func(Run) error { return nil }); err != nil {
				t.Fatal(err)
			}
			if n := marks(); n != 8 {
				t.Errorf("%d of 8 pages are still marked as written", n)
			}
			w.check(tr, before)
			if followed, why := tr.Serves(w.pid()); followed == (kind == "anon") || !followed &&
				!strings.Contains(why, "another userfaultfd") {
				t.Errorf("followed: %v, %q", followed, why)
			}
		})
	}
}

// TestNothingStays checks that a target has no descriptor of ours and no trace of tracking once the tracker is closed.
func TestNothingStays(t *testing.T) {
	tr, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	w := start(t)
	w.do("map 0 50 0 anon")
	w.do("write 0 0 50")
	fds, err := procfs.Pid(w.pid()).FDs()
	if err != nil {
		t.Fatal(err)
	}
	w.attach(tr)
	w.arm(tr)
	now, err := procfs.Pid(w.pid()).FDs()
	if err != nil || !slices.Equal(fds, now) {
		t.Errorf("descriptors %v, were %v, %v", now, fds, err)
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	w.requireUntracked()
	w.do("write 0 0 50")
}

// requireUntracked requires that no mapping is registered with a userfaultfd.
func (w *writer) requireUntracked() {
	w.t.Helper()
	maps, err := procfs.Pid(w.pid()).Smaps()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range maps {
		if slices.Contains(m.Flags, "uw") {
			w.t.Errorf("mapping %s is still registered", m.Key())
		}
	}
}

// killEnv makes the test binary a tool that arms the process it names until it is killed.
const killEnv = "DIRTY_TEST_PID"

func armForever() {
	var pid int
	if _, err := fmt.Sscan(os.Getenv(killEnv), &pid); err != nil {
		panic(err)
	}
	tr, err := New("")
	if err != nil {
		panic(err)
	}
	pt := ptrace.New()
	g, err := pt.Freeze(context.Background(), []int{pid}, 5*time.Second)
	if err == nil {
		err = errors.Join(tr.Attach(g, pid), g.Thaw())
	}
	for err == nil {
		err = tr.Arm(pid, nil)
	}
	panic(err)
}

// TestKilled kills a tool with SIGKILL while it follows a process: the kernel gives everything back and the process
// writes on.
func TestKilled(t *testing.T) {
	w := start(t)
	w.do("map 0 500 0 anon")
	w.do("write 0 0 500")
	for i := range 12 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", killEnv, w.pid()))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(5+17*i) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		w.do("write 0 0 500")
		w.requireUntracked()
	}
}

// TestGuardInFile installs a guard region where pages of a file mapping have vanished. A marker in their place would
// make the kernel try for ever.
func TestGuardInFile(t *testing.T) {
	for _, tr := range backends(t) {
		t.Run(tr.Name(), func(t *testing.T) {
			w := start(t)
			hung := time.AfterFunc(20*time.Second, func() { _ = w.cmd.Process.Kill() })
			defer hung.Stop()
			w.do("map 1 100 0 file")
			w.do("write 1 0 80")
			w.attach(tr)
			w.arm(tr)
			w.do("advise 1 10 40 dontneed")
			w.do("advise 1 10 40 guard")
			w.do("write 1 60 10")
		})
	}
}
