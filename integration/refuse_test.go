package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/ptrace"
)

// check lists every blocker at once, with remedies, and does not stop the process; snap refuses, and leaves it alone as
// well.
func TestCheckListsAllBlockers(t *testing.T) {
	tg := start(t, program{name: "blockers", argv: []string{"blockers"}, wait: waitsForGo})
	if strings.Contains(tg.read("out"), "no io_uring") {
		t.Log("this kernel has io_uring switched off: two blockers instead of three")
	}
	before := viewOf(tg.pid)
	out, errs, status := tg.ckpt("check", strconv.Itoa(tg.pid))
	if status != 4 {
		t.Errorf("check: status %d, want 4", status)
	}
	all := out + errs
	for _, want := range []string{`(?i)io_uring`, `(?i)socket`, `(?i)sysv`} {
		if !regexp.MustCompile(want).MatchString(all) {
			t.Errorf("check does not name %s:\n%s", want, all)
		}
	}
	faults := 0
	for line := range strings.Lines(all) {
		if strings.HasPrefix(strings.TrimPrefix(line, "bpfckpt: "), "E_") {
			faults++
			if !strings.Contains(line, "; ") || !strings.Contains(line, strconv.Itoa(tg.pid)) {
				t.Errorf("a blocker without pid or remedy: %s", line)
			}
		}
	}
	if faults < 3 {
		t.Errorf("%d blockers, want at least 3:\n%s", faults, all)
	}
	checkJSON(t, tg)
	// sigtimedwait changes it while it waits
	compareViews(t, "after check", viewOf(tg.pid), before, []string{" SigBlk"})
	tg.goOn()
	if r := tg.finish(); r.status != 0 {
		t.Errorf("the process was stopped: %s", r)
	}
}

// snap refuses what check lists, with the same words and status, and leaves nothing.
func TestSnapRefuses(t *testing.T) {
	tg := start(t, program{name: "blockers", argv: []string{"blockers"}, wait: computes})
	if _, errs, status := tg.ckpt("snap", strconv.Itoa(tg.pid), "--dir", "image"); status != 4 ||
		!strings.HasPrefix(errs, "bpfckpt: E_") {
		t.Errorf("snap: status %d, want 4: %s", status, errs)
	}
	if _, err := os.Stat(tg.path("image")); err == nil {
		t.Error("a refused snapshot left its directory")
	}
}

func checkJSON(t *testing.T, tg *target) {
	t.Helper()
	out, _, status := tg.ckpt("check", strconv.Itoa(tg.pid), "--json")
	var report struct {
		Pid      int               `json:"pid"`
		Blockers []json.RawMessage `json:"blockers"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != 4 {
		t.Errorf("check --json: status %d, %v: %s", status, err, out)
	}
	if report.Pid != tg.pid || len(report.Blockers) < 3 {
		t.Errorf("check --json: %s", out)
	}
}

// fails runs the command and checks that it fails with one line that begins with the code and holds a remedy.
func fails(t *testing.T, dir string, status int, code string, args ...string) {
	t.Helper()
	out, errs, have := ckptIn(t, dir, args...)
	oneLine(t, strings.Join(args, " "), out, errs, have, status, code)
}

func oneLine(t *testing.T, what, out, errs string, have, status int, code string) {
	t.Helper()
	if have != status {
		t.Errorf("%s: status %d, want %d: %s%s", what, have, status, out, errs)
	}
	line := strings.TrimPrefix(strings.TrimSuffix(errs, "\n"), "bpfckpt: ")
	if strings.Contains(line, "\n") || !strings.HasPrefix(line, code+":") || !strings.Contains(line, "; ") {
		t.Errorf("%s: the error is not one line of code %s, object, cause and remedy:\n%s", what, code, errs)
	}
	if out != "" {
		t.Errorf("%s: standard output: %s", what, out)
	}
}

func TestErrorsOfSnap(t *testing.T) {
	dir := t.TempDir()
	t.Run("no such pid", func(t *testing.T) { fails(t, dir, 1, "E_NO_SUCH_PID", "snap", "4194303", "--dir", "x") })
	t.Run("kernel thread", func(t *testing.T) {
		fails(t, dir, 4, "E_KERNEL_THREAD", "snap", kernelThread(t), "--dir",
			"x")
	})
	t.Run("usage", func(t *testing.T) {
		for _, args := range [][]string{
			{"snap"},
			{"snap", "abc"},
			{"snap", "-5"},
			{"snap", "1", "2"},
			{"snap", "1", "--nonsense"},
			{"nonsense"},
		} {
			if _, errs, status := ckptIn(t, dir, args...); status != 64 || errs == "" {
				t.Errorf("%v: status %d: %s", args, status, errs)
			}
		}
	})
	t.Run("itself", func(t *testing.T) {
		cmd := exec.Command("/bin/sh", "-c", `exec "$0" snap $$ --dir x`, built.cmd)
		cmd.Dir = dir
		var errs strings.Builder
		cmd.Stderr = &errs
		_ = cmd.Run()
		oneLine(t, "snap itself", "", errs.String(), cmd.ProcessState.ExitCode(), 4, "E_SELF")
	})
	t.Run("zombie", func(t *testing.T) {
		cmd := exec.Command("/bin/true")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Wait() }()
		for stateOf(cmd.Process.Pid) != 'Z' {
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
		}
		fails(t, dir, 4, "E_ZOMBIE", "snap", strconv.Itoa(cmd.Process.Pid), "--dir", "x")
	})
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func kernelThread(t *testing.T) string {
	t.Helper()
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		if _, parent := nameAndParent(filepath.Base(filepath.Dir(stat))); parent == "2" {
			return filepath.Base(filepath.Dir(stat))
		}
	}
	t.Fatal("no kernel thread to be seen")
	return ""
}

// Errors that a healthy target survives: it is as before and ends as it should.
func TestErrorsLeaveTheTargetAlone(t *testing.T) {
	cases := map[string]func(t *testing.T, tg *target){
		"full disk":           fullDisk,
		"unwritable":          unwritable,
		"not allowed":         otherUser,
		"traced":              traced,
		"not a store":         notAStore,
		"name is taken":       nameTaken,
		"max freeze exceeded": maxFreeze,
	}
	for name, run := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := caseNamed(t, "vmas/big")
			want := control(t, p)
			tg := start(t, p)
			before := viewOf(tg.pid)
			run(t, tg)
			compareViews(t, name, viewOf(tg.pid), before, nil)
			tg.goOn()
			same(t, name, tg.finish(), want)
		})
	}
}

func pidOf(tg *target) string { return strconv.Itoa(tg.pid) }

// onTmpfs runs f with a small tmpfs at the target's directory "disk".
func onTmpfs(t *testing.T, tg *target, f func(disk string)) {
	t.Helper()
	disk := tg.path("disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	}()
	f(disk)
	if left, _ := os.ReadDir(disk); len(left) > 0 {
		t.Errorf("half an image stays: %v", left)
	}
}

func fullDisk(t *testing.T, tg *target) {
	onTmpfs(t, tg, func(string) {
		fails(t, tg.dir, 1, "E_STORE_FULL", "snap", pidOf(tg), "--dir", "disk/image", "--compress", "none")
	})
}

func unwritable(t *testing.T, tg *target) {
	onTmpfs(t, tg, func(disk string) { // root may write anywhere but on a file system that is mounted to be read only
		if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		fails(t, tg.dir, 1, "E_STORE_RIGHTS", "snap", pidOf(tg), "--dir", "disk/image")
	})
}

func otherUser(t *testing.T, tg *target) {
	cmd := exec.Command(built.cmd, "snap", pidOf(tg), "--dir", filepath.Join(os.TempDir(), "integration-nobody"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	oneLine(t, "as nobody", out.String(), errs.String(), cmd.ProcessState.ExitCode(), 1, "E_NO_RIGHTS")
}

func traced(t *testing.T, tg *target) {
	defer tg.poll("the end of tracing", func() bool { return tg.running() })
	tracer := ptrace.New()
	defer tracer.Close()
	if err := tracer.Do(func() error { return unix.PtraceSeize(tg.pid) }); err != nil { // it does not stop the target
		t.Fatal(err)
	}
	fails(t, tg.dir, 4, "E_TRACED", "snap", pidOf(tg), "--dir", "image")
}

func notAStore(t *testing.T, tg *target) {
	if err := os.MkdirAll(tg.path("docs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tg.path("docs/letter"), []byte("dear"), 0o644); err != nil {
		t.Fatal(err)
	}
	fails(t, tg.dir, 1, "E_STORE_NOT_STORE", "snap", pidOf(tg), "--dir", "docs")
	if left, _ := os.ReadDir(tg.path("docs")); len(left) != 1 {
		t.Errorf("the directory changed: %v", left)
	}
}

func nameTaken(t *testing.T, tg *target) {
	tg.snap("--name", "first")
	fails(t, tg.dir, 1, "E_STORE_NAME", "snap", pidOf(tg), "--dir", "image", "--name", "first")
	fails(t, tg.dir, 64, "E_STORE_OPTION", "snap", pidOf(tg), "--dir", "image", "--name", "not/a name")
}

func maxFreeze(t *testing.T, tg *target) {
	fails(t, tg.dir, 1, "E_MAX_FREEZE", "snap", pidOf(tg), "--dir", "image", "--max-freeze", "1us")
	if _, err := os.Stat(tg.path("image")); err == nil {
		t.Error("half an image stays")
	}
}

// What restore says of what is not there, not whole, or not the same any more. Nothing may run afterwards.
func TestErrorsOfRestore(t *testing.T) {
	t.Run("no image", func(t *testing.T) { fails(t, t.TempDir(), 1, "E_STORE_NOT_FOUND", "restore", "nowhere") })
	changes := map[string]struct {
		program, code string
		change        func(t *testing.T, tg *target) error
	}{
		"file gone": {
			"fds/offsets", "E_FILE_GONE",
			func(_ *testing.T, tg *target) error { return os.Remove(tg.path("a")) },
		},
		"file shorter": {
			"fds/append", "E_FILE_CHANGED",
			func(_ *testing.T, tg *target) error { return os.Truncate(tg.path("log"), 2) },
		},
		"mapped file changed": {"vmas/private-file", "E_FILE_CHANGED", func(_ *testing.T, tg *target) error {
			return os.WriteFile(tg.path("file"), []byte("other"), 0o644)
		}},
		"shared file shorter": {
			"vmas/shared-file", "E_FILE_CHANGED",
			func(_ *testing.T, tg *target) error { return os.Truncate(tg.path("file"), 5) },
		},
		"cwd gone": {
			"proc/directory", "E_FILE_GONE",
			func(_ *testing.T, tg *target) error { return os.RemoveAll(tg.path("sub dir")) },
		},
	}
	for name, c := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tg := start(t, caseNamed(t, c.program))
			tg.snap()
			tg.kill()
			if err := c.change(t, tg); err != nil {
				t.Fatal(err)
			}
			fails(t, tg.dir, 6, c.code, "restore", "image")
			if syscall.Kill(tg.pid, 0) == nil {
				t.Error("a process is left")
			}
		})
	}
}
