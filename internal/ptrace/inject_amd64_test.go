package ptrace

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// TestMain makes this binary its own helper: with injectEnv set it injects into that process until it is killed, with
// checkEnv it is a Go program that checks itself.
func TestMain(m *testing.M) {
	if pid, err := strconv.Atoi(os.Getenv(injectEnv)); err == nil {
		injectForever(pid)
	}
	if os.Getenv(checkEnv) != "" {
		checkForever()
	}
	os.Exit(m.Run())
}

const (
	injectEnv = "PTRACE_TEST_INJECT"
	checkEnv  = "PTRACE_TEST_CHECK"
)

// startGoVictim starts this binary as a Go program that checks itself.
func startGoVictim(t *testing.T) *victim {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), checkEnv+"=1", "GOTRACEBACK=crash")
	return run(t, cmd)
}

func injectForever(pid int) {
	for last := time.Now(); ; {
		err := injectOnce(pid)
		var f *fault.Error
		switch {
		case err == nil:
			fmt.Println("round")
			last = time.Now()
		case (errors.As(err, &f) && f.Code == fault.InjectRoom || errors.Is(err, errPageThere)) &&
			time.Since(last) < wayBack:
			// A thread is still on its way back from our predecessor's loan: it is on the main stack, or has the page
			// to give back.
			time.Sleep(time.Millisecond)
		default:
			fmt.Println(err)
			os.Exit(3)
		}
	}
}

// queries are calls whose answers are known.
func queries() []Syscall {
	return []Syscall{
		{Nr: unix.SYS_GETPID},
		{Nr: unix.SYS_SIGALTSTACK, Arg: 1, Data: make([]byte, 24)},
		{Nr: unix.SYS_PRCTL, Args: [6]uint64{unix.PR_GET_NAME}, Arg: 1, Data: make([]byte, 16)},
		{Nr: unix.SYS_GETTID},
		{Nr: unix.SYS_GETITIMER, Args: [6]uint64{0}, Arg: 1, Data: make([]byte, 32)},
		{Nr: unix.SYS_PRCTL, Args: [6]uint64{99999}},
	}
}

// injectOnce freezes a process, makes every thread answer and lets it go again.
func injectOnce(pid int) error {
	t := New()
	defer t.Close()
	g, err := t.Freeze(context.Background(), []int{pid}, patience)
	if err != nil {
		return err
	}
	in, err := g.Injector(pid, nil)
	if err != nil {
		return err
	}
	for _, th := range g.Threads() {
		if err := injectChecked(in, th); err != nil {
			return err
		}
	}
	return g.Thaw()
}

func injectChecked(in *Injector, th *Thread) error {
	before, err := th.Regs()
	if err != nil {
		return err
	}
	calls := queries()
	if err := in.Inject(th, calls); err != nil {
		return err
	}
	name := string(bytes.TrimRight(calls[2].Data, "\x00"))
	if calls[0].Ret != int64(th.Pid) || calls[1].Ret != 0 || calls[2].Ret != 0 || calls[3].Ret != int64(th.Tid) ||
		calls[4].Ret != 0 ||
		calls[5].Err() != unix.EINVAL || name == "" {
		return fmt.Errorf("thread %d: wrong answers %+v", th.Tid, calls)
	}
	if err := holdChecked(in, th); err != nil {
		return err
	}
	after, err := th.Regs()
	if err != nil {
		return err
	}
	if before != after {
		return fmt.Errorf("thread %d: registers were %+v and are %+v", th.Tid, before, after)
	}
	return nil
}

// heldPage is where holdChecked has a page mapped for a moment.
const heldPage = 1 << 36

// wayBack is how long a thread may take to come back from the loan of a dead tracer: it needs a processor for it, of
// which a busy machine has none to spare.
const wayBack = 20 * time.Second

var errPageThere = errors.New("the page is there already")

func holdChecked(in *Injector, th *Thread) error {
	// Looked at before anything is done: our own undoing would take the page away, and nobody would see that it had
	// been left behind.
	if there, err := hasHeldPage(th.Pid); err != nil || there {
		return fmt.Errorf("thread %d: %w", th.Tid, errors.Join(err, errPageThere))
	}
	do := Syscall{Nr: unix.SYS_MMAP, Args: [6]uint64{
		heldPage, pageSize, 0,
		unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED_NOREPLACE, ^uint64(0),
	}}
	undo := Syscall{Nr: unix.SYS_MUNMAP, Args: [6]uint64{heldPage, pageSize}}
	seen := false
	err := in.Hold(th, do, &undo, func(result int64) error {
		var err error
		seen, err = hasHeldPage(th.Pid)
		if result != heldPage {
			err = fmt.Errorf("mmap: %d", result)
		}
		return err
	})
	if err != nil || !seen {
		return fmt.Errorf("thread %d: page seen: %v: %w", th.Tid, seen, err)
	}
	if seen, err = hasHeldPage(th.Pid); err != nil || seen {
		return fmt.Errorf("thread %d: page still there: %v: %w", th.Tid, seen, err)
	}
	return nil
}

func hasHeldPage(pid int) (bool, error) {
	maps, err := procfs.Pid(pid).Maps()
	return slices.ContainsFunc(maps, func(m procfs.Map) bool { return m.Start == heldPage }), err
}

// victims are programs that notice when they are changed.
var victims = []struct {
	name  string
	start func(*testing.T) *victim
}{
	{"c", func(t *testing.T) *victim { return startVictim(t) }},
	{"seccomp", func(t *testing.T) *victim { return startVictim(t, "filtered") }},
	{"go", startGoVictim},
}

// rounds limits a loop: n rounds, or as many as an emulated machine does in a few seconds.
func rounds(n int) (more func() bool) {
	const limit = 8 * time.Second
	began, done := time.Now(), 0
	return func() bool {
		done++
		return done <= n && (done <= 5 || time.Since(began) < limit)
	}
}

func TestInject(t *testing.T) {
	for _, kind := range victims {
		t.Run(kind.name, func(t *testing.T) {
			v := kind.start(t)
			for more := rounds(100); more(); {
				if err := injectOnce(v.cmd.Process.Pid); err != nil {
					t.Error(err)
					break
				}
			}
			v.finish(t)
		})
	}
}

// TestInjectKilled kills the tracer at random moments; the program must not notice.
func TestInjectKilled(t *testing.T) {
	for _, kind := range victims {
		t.Run(kind.name, func(t *testing.T) {
			v := kind.start(t)
			for more := rounds(killRounds); more(); {
				if err := killInjecting(v.cmd.Process.Pid); err != nil {
					t.Error(err)
					break
				}
			}
			for end := time.Now().Add(wayBack); ; time.Sleep(time.Millisecond) {
				left, err := hasHeldPage(v.cmd.Process.Pid)
				if err == nil && left && time.Now().Before(end) {
					continue // the last tracer's loan may not be over yet
				}
				if err != nil || left {
					t.Errorf("a page is left behind: %v, %v", left, err)
				}
				break
			}
			v.finish(t)
		})
	}
}

// killRounds is how often the tracer is killed; each time it is somewhere in the middle of injecting.
const killRounds = 40

// TestInjectWhileStopped injects into a program in a job-control stop, and into one that is told to stop in the middle.
func TestInjectWhileStopped(t *testing.T) {
	for _, before := range []bool{true, false} {
		v := startVictim(t)
		pid := v.cmd.Process.Pid
		if before {
			stopAndWait(t, pid)
		}
		if err := injectMeanwhile(pid, func() error {
			if before {
				return nil
			}
			return unix.Kill(pid, unix.SIGSTOP)
		}); err != nil {
			t.Fatal(err)
		}
		waitState(t, pid, "T")
		if err := unix.Kill(pid, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		v.finish(t)
	}
}

// injectMeanwhile is injectOnce with something done once all threads have stopped.
func injectMeanwhile(pid int, meanwhile func() error) error {
	t := New()
	defer t.Close()
	g, err := t.Freeze(context.Background(), []int{pid}, patience)
	if err != nil {
		return err
	}
	in, err := g.Injector(pid, nil)
	if err != nil {
		return err
	}
	if err := meanwhile(); err != nil {
		return err
	}
	for _, th := range g.Threads() {
		if err := injectChecked(in, th); err != nil {
			return err
		}
	}
	return g.Thaw()
}

func stopAndWait(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waitState(t, pid, "T")
}

func waitState(t *testing.T, pid int, state string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if procWord(pid, "stat", 2) == state {
			return
		}
	}
	t.Fatalf("pid %d is in state %s, not %s", pid, procWord(pid, "stat", 2), state)
}

func TestInjectTargetDies(t *testing.T) {
	v := startVictim(t)
	pid := v.cmd.Process.Pid
	err := injectMeanwhile(pid, func() error { return unix.Kill(pid, unix.SIGKILL) })
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.TargetGone {
		t.Errorf("got %v, want %s", err, fault.TargetGone)
	}
}

func killInjecting(pid int) error {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), injectEnv+"="+strconv.Itoa(pid))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "round\n" {
		rest, _ := io.ReadAll(out)
		return fmt.Errorf("the tracer says %q %s", line, rest)
	}
	time.Sleep(time.Duration(rand.IntN(8000)) * time.Microsecond)
	if err := cmd.Process.Kill(); err != nil {
		return err
	}
	_ = cmd.Wait() // it was killed
	return nil
}

// TestInjectPunished refuses a call that the target's seccomp filter would kill it for.
func TestInjectPunished(t *testing.T) {
	v := startVictim(t, "filtered")
	err := injectMeanwhileCalls(v.cmd.Process.Pid, []Syscall{{Nr: unix.SYS_ADJTIMEX, Data: make([]byte, 208)}})
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.InjectState {
		t.Errorf("got %v, want %s", err, fault.InjectState)
	}
	v.finish(t)
}

// injectMeanwhileCalls freezes a process and makes its leader execute calls.
func injectMeanwhileCalls(pid int, calls []Syscall) error {
	t := New()
	defer t.Close()
	g, err := t.Freeze(context.Background(), []int{pid}, patience)
	if err != nil {
		return err
	}
	in, err := g.Injector(pid, nil)
	if err != nil {
		return err
	}
	return in.Inject(g.Threads()[0], calls)
}

// TestFilter runs a filter that computes.
func TestFilter(t *testing.T) {
	var prog []byte
	for _, i := range []struct {
		code   uint16
		jt, jf uint8
		k      uint32
	}{
		{0x20, 0, 0, 16},   // ld [16]: the low half of the first argument
		{0x54, 0, 0, 0xff}, // and #0xff
		{0x02, 0, 0, 3},    // st M[3]
		{0x61, 0, 0, 3},    // ldx M[3]
		{0x00, 0, 0, 7},    // ld #7
		{0x0c, 0, 0, 0},    // add x
		{0x35, 0, 1, 100},  // jge #100, over
		{0x06, 0, 0, seccompErrno | 1},
		{0x16, 0, 0, 0}, // ret a
	} {
		prog = binary.LittleEndian.AppendUint16(prog, i.code)
		prog = append(prog, i.jt, i.jf)
		prog = binary.LittleEndian.AppendUint32(prog, i.k)
	}
	for arg, want := range map[uint64]uint32{0x101: 8, 93: seccompErrno | 1, 0x1230000005d: seccompErrno | 1, 92: 99} {
		got, err := runFilter(prog, seccompData(39, 0, [6]uint64{arg}))
		if err != nil || got != want {
			t.Errorf("argument %#x: %#x, %v; want %#x", arg, got, err, want)
		}
	}
	if _, err := runFilter([]byte{0x48, 0, 0, 0, 0, 0, 0, 0}, seccompData(0, 0, [6]uint64{})); !errors.Is(err,
		errFilter) {
		t.Errorf("an unknown instruction: %v", err)
	}
}

// TestSignalXState takes the tile state of a thread that never used it out of the frame.
func TestSignalXState(t *testing.T) {
	b := make([]byte, 11008)
	binary.LittleEndian.PutUint64(b[xstateSW:], xfeatureTile|xfeaturePKRU|7)
	binary.LittleEndian.PutUint64(b[xstateHeader:], 3)
	out, err := signalXState(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != 11008-sizeofTile+4 || binary.LittleEndian.Uint32(out[xstateSW+16:]) != 11008-sizeofTile ||
		binary.LittleEndian.Uint64(out[xstateSW+8:]) != xfeaturePKRU|7 ||
		binary.LittleEndian.Uint64(out[xstateHeader:]) != xfeaturePKRU|3 ||
		binary.LittleEndian.Uint32(out[len(out)-4:]) != xstateMagic2 {
		t.Errorf("wrong frame of %d bytes: % x", len(out), out[xstateSW:xstateHeader+8])
	}
}

// BenchmarkInject tells what a loan costs, and what each further call in it.
func BenchmarkInject(b *testing.B) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	time.Sleep(20 * time.Millisecond)
	t := New()
	defer t.Close()
	g, err := t.Freeze(context.Background(), []int{cmd.Process.Pid}, patience)
	if err != nil {
		b.Fatal(err)
	}
	in, err := g.Injector(cmd.Process.Pid, nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, 10, 64} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			calls := make([]Syscall, n)
			for i := range calls {
				calls[i] = Syscall{Nr: unix.SYS_SIGALTSTACK, Arg: 1, Data: make([]byte, 24)}
			}
			for b.Loop() {
				if err := in.Inject(g.Threads()[0], calls); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	if err := g.Thaw(); err != nil {
		b.Fatal(err)
	}
}

// errNoChain is what programs of the kernel matrix give: they are static, and the code that a chain needs is in a
// shared C library.
var errNoChain = errors.New("the program has no code to chain calls with")

// deaths are the moments at which TestInjectDiesWithSignal dies.
var deaths = map[string]func(l *loan, calls []Syscall) error{
	"chain, before the mask": func(l *loan, calls []Syscall) error {
		if l.chain == nil {
			return errNoChain
		}
		first, words, results := l.steps(calls)
		_, err := WriteMemory(l.th.Pid, []Range{{first.Rsp, len(words)}, {l.chain.results, len(results)}},
			append(words, results...))
		return errors.Join(err, setRegset(l.th.Tid, regsetPRStatus, first.Bytes()))
	},
	"call, before the mask": func(l *loan, calls []Syscall) error {
		r := l.injected(calls[0].Nr, calls[0].Args)
		return setRegset(l.th.Tid, regsetPRStatus, r.Bytes())
	},
}

// TestInjectDiesWithSignal lets the tracer die at the one moment in which the thread has other registers and does not
// block signals yet, with a signal pending: its handler runs in the middle of the way back.
func TestInjectDiesWithSignal(t *testing.T) {
	for name, die := range deaths {
		t.Run(name, func(t *testing.T) {
			v := startVictim(t)
			for range 20 {
				err := dieInjecting(v.cmd.Process.Pid, die)
				if errors.Is(err, errNoChain) && os.Getenv("BPFCKPT_GUEST") != "" {
					t.Skip(err)
				}
				if err != nil {
					t.Fatal(err)
				}
				v.awaitUntraced(t)
			}
			v.finish(t)
		})
	}
}

// awaitUntraced waits until the kernel is through with the end of a tracer.
func (v *victim) awaitUntraced(t *testing.T) {
	t.Helper()
	for {
		time.Sleep(time.Millisecond)
		status, err := procfs.Pid(v.cmd.Process.Pid).Status()
		if err != nil {
			t.Fatal(err)
		}
		if status.TracerPid == 0 {
			return
		}
	}
}

// dieInjecting borrows the leader, which handles SIGALRM, and leaves it in the middle.
func dieInjecting(pid int, die func(l *loan, calls []Syscall) error) error {
	t := New()
	defer t.Close() // detaches, as the death of the tracer does
	g, err := t.Freeze(context.Background(), []int{pid}, patience)
	if err != nil {
		return err
	}
	in, err := g.Injector(pid, nil)
	if err != nil {
		return err
	}
	if err := unix.Tgkill(pid, pid, unix.SIGALRM); err != nil {
		return err
	}
	return t.Do(func() error {
		calls := queries()
		l, err := in.borrow(g.Threads()[0], calls)
		if err != nil {
			return err
		}
		return die(l, calls)
	})
}
