package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/features"
	"github.com/bpfckpt/bpfckpt/internal/lazy"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/restore"
)

// lazyProgram is a case of lazy.c with that many MiB.
func lazyProgram(name string, size int) program {
	return program{name: "lazy/" + name, argv: []string{"lazy", name, strconv.Itoa(size)}}
}

var lazyCases = []string{"random", "write", "drop", "remap", "fork", "kernel", "exit"}

// needLazy skips where the kernel cannot do it; that it says so is TestLazyNeedsTheKernel.
func needLazy(t *testing.T) {
	t.Helper()
	if f := features.Try("uffd_lazy"); f.Outcome != features.Yes {
		t.Skipf("restore --lazy: %s", f.Detail)
	}
}

// A kernel that lacks something is named, and nothing is left.
func TestLazyNeedsTheKernel(t *testing.T) {
	f := features.Try("uffd_lazy")
	tg := start(t, lazyProgram("random", 8))
	tg.snap()
	tg.kill()
	if f.Outcome == features.Yes {
		return
	}
	_, errs, status := tg.ckpt("restore", "image", "--lazy")
	if status != 3 || !strings.HasPrefix(errs, "bpfckpt: E_NO_LAZY") || strings.Count(errs, "\n") != 1 {
		t.Errorf("status %d: %s", status, errs)
	}
}

// frozen starts a program, snaps it at READY, kills it and lets the next life go on.
func frozen(t *testing.T, p program, flags ...string) *target {
	t.Helper()
	tg := start(t, p)
	tg.snap(flags...)
	tg.kill()
	tg.goOn()
	return tg
}

// restoreLazily restores and returns the pid of the server.
func (tg *target) restoreLazily(flags ...string) int {
	tg.t.Helper()
	tg.startRestore(append([]string{"image", "--lazy", "--json"}, flags...)...)
	var said struct {
		Lazy struct {
			Pages  int `json:"pages"`
			Server int `json:"server"`
		} `json:"lazy"`
	}
	tg.poll("the answer", func() bool {
		return tg.ended() || strings.HasSuffix(tg.read("restore.out"), "\n")
	})
	if err := json.Unmarshal([]byte(tg.read("restore.out")), &said); err != nil {
		tg.t.Fatalf("%s: %v in %q: %s", tg.p.name, err, tg.read("restore.out"), tg.read("restore.err"))
	}
	if said.Lazy.Pages == 0 || said.Lazy.Server == 0 {
		tg.t.Errorf("%s: nothing comes later: %s", tg.p.name, tg.read("restore.out"))
	}
	return said.Lazy.Server
}

// Programs whose memory comes as they use it, from all threads at once, end as if nothing had happened: while they only
// read and write, discard, move and fork, and while the kernel touches it.
func TestLazy(t *testing.T) {
	needLazy(t)
	for _, name := range lazyCases {
		t.Run(name, func(t *testing.T) {
			p := lazyProgram(name, 48)
			want := control(t, p)
			for _, level := range []string{"none", "fast"} {
				tg := frozen(t, p, "--compress", level)
				for range 3 {
					tg.emptyOut()
					tg.restoreLazily()
					same(t, level, tg.finish(), want)
				}
			}
		})
	}
}

// emptyOut takes back what an earlier life printed after READY.
func (tg *target) emptyOut() {
	tg.t.Helper()
	if err := os.Truncate(tg.path("out"), int64(len("READY\n"))); err != nil {
		tg.t.Fatal(err)
	}
}

// Programs of every other kind do not notice either.
func TestLazyPrograms(t *testing.T) {
	needLazy(t)
	for _, name := range []string{
		"threads", "openmp", "goroutines", "python", "vmas/anon", "vmas/huge", "vmas/locked",
		"trees/groups", "signals/altstack", "proc/seccomp", "forked/generations", "forked/reshaped",
	} {
		t.Run(name, func(t *testing.T) {
			p := caseNamed(t, name)
			want := control(t, p)
			tg := frozen(t, p)
			tg.startRestore("image", "--lazy")
			same(t, name, tg.finish(), want)
		})
	}
}

// When the server is killed, at any moment, the program ends by SIGBUS or, if it had all of its memory, as it would
// have. It never sees a page that is not its own.
func TestLazyServerKilled(t *testing.T) {
	needLazy(t)
	for _, name := range lazyCases {
		t.Run(name, func(t *testing.T) {
			p := lazyProgram(name, 48)
			want := control(t, p)
			tg := frozen(t, p, "--compress", "fast")
			var bus, whole int
			for range 15 {
				tg.emptyOut()
				server := tg.restoreLazily()
				time.Sleep(rand.N(120 * time.Millisecond))
				killProcess(t, server)
				if tg.busOr(want) {
					bus++
				} else {
					whole++
				}
			}
			t.Logf("%d ended by SIGBUS, %d had all their memory", bus, whole)
		})
	}
}

// busOr waits for the end, which must be by SIGBUS (true) or as wanted. A child, or a system call (EFAULT, less written
// than there was), may have met a page that never came before the signal did. Where the kernel met it when it was to
// put the frame of a signal there, or the number of the processor (rseq), the end is SIGSEGV (setup_rt_frame,
// arch/x86/kernel/signal.c; __rseq_handle_notify_resume, kernel/rseq.c).
func (tg *target) busOr(want result) bool {
	tg.t.Helper()
	status, out := tg.join(), tg.read("out")
	if status == want.status && out == want.out {
		return false
	}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "differs") && !strings.HasSuffix(line, "child ended with 7") &&
			line != "differs: a futex call: 14" {
			tg.t.Errorf("%s: %s", tg.p.name, line)
		}
	}
	if strings.Contains(out, "cannot set up: a short write") || strings.Contains(out, "Bad address") {
		return true
	}
	if status != 128+int(syscall.SIGBUS) && status != 128+int(syscall.SIGSEGV) && !strings.Contains(out, "ended with 7") {
		tg.t.Errorf("%s: status %d: %s%s", tg.p.name, status, out, tg.read("restore.err"))
	}
	return true
}

// killProcess kills a process that may have ended already, but never one that is not bpfckpt's.
func killProcess(t *testing.T, pid int) bool {
	t.Helper()
	comm := strings.TrimSpace(slurp(fmt.Sprintf("/proc/%d/comm", pid)))
	if comm != "lazy-server" && comm != "lazy-guard" {
		return false
	}
	return syscall.Kill(pid, syscall.SIGKILL) == nil
}

// When the guard is killed the server makes another one, and the program does not notice.
func TestLazyGuardKilled(t *testing.T) {
	needLazy(t)
	p := lazyProgram("random", 96)
	want := control(t, p)
	tg := frozen(t, p, "--compress", "fast")
	killed := 0
	for range 8 {
		tg.emptyOut()
		server := tg.restoreLazily()
		for range 3 {
			time.Sleep(rand.N(10 * time.Millisecond))
			for _, pid := range descendants(server)[1:] {
				if killProcess(t, pid) {
					killed++
				}
			}
		}
		same(t, "the guard killed", tg.finish(), want)
	}
	if killed == 0 {
		t.Error("no guard was there to kill")
	}
}

// A process whose memory is still to come can be snapped: the image has all of it.
func TestLazySnap(t *testing.T) {
	needLazy(t)
	p := lazyProgram("random", 128)
	want := control(t, p)
	tg := start(t, p)
	tg.snap("--compress", "fast")
	tg.kill()
	early := 0
	for range 3 {
		tg.emptyOut()
		tg.restoreLazily()
		if missing(t, tg.pid) {
			early++
		}
		tg.snap("--compress", "none")
		if missing(t, tg.pid) {
			t.Error("after the snapshot mappings are registered still")
		}
		tg.kill()
	}
	if early == 0 {
		t.Error("never was memory still to come when the snapshot began")
	}
	tg.goOn()
	tg.restore()
	same(t, "snapped while memory was to come", tg.finish(), want)
}

// missing tells whether a process has mappings whose missing pages are to come.
func missing(t *testing.T, pid int) bool {
	t.Helper()
	maps, err := procfs.Pid(pid).Smaps()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range maps {
		for _, f := range m.Flags {
			if f == "um" {
				return true
			}
		}
	}
	return false
}

// With --detach the server lives on by itself and ends when all memory is there; the image may be removed meanwhile.
func TestLazyDetached(t *testing.T) {
	needLazy(t)
	p := lazyProgram("random", 64)
	want := control(t, p)
	tg := start(t, p)
	tg.snap("--compress", "fast")
	tg.kill()
	out, errs, status := tg.ckpt("restore", "image", "--lazy", "--detach", "--json")
	if status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	if _, errs, status := tg.ckpt("rm", "image@"+headOf(t, tg)); status != 0 {
		t.Errorf("rm: status %d: %s", status, errs)
	}
	tg.poll("all memory", func() bool { return !missing(t, tg.pid) })
	tg.goOn()
	var ws syscall.WaitStatus
	tg.poll("the end", func() bool { // it came to us, a subreaper
		pid, _ := syscall.Wait4(tg.pid, &ws, syscall.WNOHANG, nil)
		return pid == tg.pid
	})
	same(t, out, result{status: ws.ExitStatus(), out: tg.read("out"), files: map[string]string{}}, want)
	tg.poll("the end of the server", func() bool { reapAll(); return len(lazyProcesses()) == 0 })
}

func headOf(t *testing.T, tg *target) string {
	t.Helper()
	img, err := image.Open(tg.path("image"))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	return img.Info().ID
}

// lazyProcesses are the servers and guards below us.
func lazyProcesses() (list []string) {
	for _, p := range processes() {
		pid, _, _ := strings.Cut(p, " ")
		if strings.Contains(slurp("/proc/"+pid+"/cmdline"), "__lazy-") {
			list = append(list, p)
		}
	}
	return list
}

// A damaged frame that is found when the process runs already is a SIGBUS for who touches its pages, and is said.
func TestLazyDamaged(t *testing.T) {
	needLazy(t)
	tg := frozen(t, lazyProgram("random", 48), "--compress", "none")
	for _, name := range imageFiles(t, tg.path("image")) {
		if info, err := os.Stat(name); err == nil && info.Size() > 1<<20 {
			flip(t, name, info.Size()/2)
		}
	}
	tg.restoreLazily()
	if status := tg.join(); status != 128+int(syscall.SIGBUS) {
		t.Errorf("status %d: %s", status, tg.read("out"))
	}
	tg.poll("the server to say it", func() bool { // it ends after the program that it fails
		errs := tg.read("restore.err")
		return strings.Contains(errs, "E_IMAGE_DAMAGED") && strings.Contains(errs, "pages are lost")
	})
	if strings.Contains(tg.read("out"), "differs") {
		t.Error(tg.read("out"))
	}
}

// flip changes one byte of a file.
func flip(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// A lazy restore that fails at any step leaves nothing, no server and no guard either.
func TestLazyEveryStepFails(t *testing.T) {
	needLazy(t)
	p := lazyProgram("random", 8)
	want := control(t, p)
	tg := start(t, p)
	tg.snap()
	tg.kill()
	img, err := image.Open(tg.path("image"))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	o := restore.Options{Std: [3]*os.File{null, null, null}}
	before := fmt.Sprint(traces(t, tg))
	for o.FailStep = 1; ; o.FailStep++ {
		if o.Lazy, err = lazy.Start([]string{built.cmd, lazy.ServeVerb}, tg.path("image"), nil); err != nil {
			t.Fatal(err)
		}
		res, err := restore.Restore(t.Context(), img, o)
		if err == nil {
			t.Logf("%d steps", o.FailStep-1)
			tg.goOn()
			status, err := res.Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			same(t, p.name, result{status: status.ExitStatus(), out: tg.read("out"), files: map[string]string{}}, want)
			return
		}
		if after := fmt.Sprint(traces(t, tg)); after != before {
			t.Fatalf("step %d (%v): have\n%s\nwant\n%s", o.FailStep, err, after, before)
		}
	}
}

// A server that is killed before the processes run makes the restore fail as a whole.
func TestLazyServerKilledEarly(t *testing.T) {
	needLazy(t)
	tg := start(t, lazyProgram("random", 8))
	tg.snap()
	tg.kill()
	for i := range 20 {
		cmd := exec.Command(built.cmd, "restore", "image", "--lazy")
		cmd.Dir = tg.dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 2 * time.Millisecond)
		for _, pid := range descendants(cmd.Process.Pid)[1:] {
			if strings.Contains(slurp(filepath.Join("/proc", strconv.Itoa(pid), "cmdline")), lazy.ServeVerb) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				break
			}
		}
		for deadline := time.Now().Add(200 * time.Millisecond); time.Now().Before(deadline) && !tg.running(); {
			time.Sleep(5 * time.Millisecond)
		}
		tg.goOn()
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 6 && code != 0 && code != 128+int(syscall.SIGBUS) {
			t.Errorf("after %d ms: status %d", 2*i, code)
		}
		if strings.Contains(tg.read("out"), "differs") {
			t.Errorf("after %d ms: %s", 2*i, tg.read("out"))
		}
		if syscall.Kill(tg.pid, 0) == nil {
			t.Fatalf("after %d ms: pid %d is left", 2*i, tg.pid)
		}
	}
}
