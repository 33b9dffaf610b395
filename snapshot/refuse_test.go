package snapshot

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
)

func TestPreflightRefuses(t *testing.T) {
	zombie := exec.Command("true")
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = zombie.Wait() }()
	awaitState(t, zombie.Process.Pid, "Z")
	tg := waiting(t)
	tids, err := procfs.Pid(tg.pid()).Tasks()
	if err != nil {
		t.Fatal(err)
	}
	leaderless := start(t, "idle", "leaderless")
	awaitState(t, leaderless.pid(), "Z")
	for _, c := range []struct {
		name string
		pid  int
		want fault.Code
	}{
		{"no process", 1<<22 - 1, fault.NoSuchPid},
		{"no pid", -5, fault.NoSuchPid},
		{"a thread", tids[1], fault.NoSuchPid},
		{"kernel thread", 2, fault.KernelThread},
		{"itself", os.Getpid(), fault.Self},
		{"an ancestor", os.Getppid(), fault.Self},
		{"a zombie", zombie.Process.Pid, fault.IsZombie},
		{"only other threads live", leaderless.pid(), fault.ThreadState},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Snap(context.Background(), c.pid, Options{Dir: filepath.Join(t.TempDir(), "store")})
			t.Log(err)
			wantFault(t, err, c.want)
			_, err = Check(context.Background(), c.pid, nil)
			wantFault(t, err, c.want)
		})
	}
}

// TestNoRights runs the preflight as nobody, in a process of its own.
func TestNoRights(t *testing.T) {
	tg := waiting(t)
	dir := t.TempDir()
	cmd := tool(tg.pid(), filepath.Join(dir, "store"), "")
	copied := filepath.Join(dir, "tool")
	b, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = os.WriteFile(copied, b, 0o755)
	}
	for d := dir; err == nil && d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		err = os.Chmod(d, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Path, cmd.Stderr = copied, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Run(); err == nil {
		t.Error("nobody may save a process of root")
	}
	t.Log(out.String())
	if !strings.HasPrefix(out.String(), string(fault.NoRights)) {
		t.Errorf("it says %q", out.String())
	}
	requireFree(t, tg.pid())
	tg.finish()
}

// TestRefusals has programs with one state each that cannot be saved. They are refused by name, by Check and by Snap,
// and run on.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		mode string
		want []fault.Code
	}{
		{"split", []fault.Code{fault.Shared}},
		{"strict", []fault.Code{fault.ThreadState}},
		{"notify", []fault.Code{fault.ThreadState}},
		{"nowhere", []fault.Code{fault.ProcessState}},
		{"refused", []fault.Code{fault.Mapping, fault.Namespace}},
	} {
		t.Run(c.mode, func(t *testing.T) {
			tg := start(t, "idle", c.mode)
			if c.mode != "notify" { // its filters are read under the freeze only
				r, err := Check(context.Background(), tg.pid(), nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, code := range c.want {
					t.Log(wantFault(t, r.Blockers, code))
				}
			}
			_, err := Snap(context.Background(), tg.pid(), Options{Dir: filepath.Join(t.TempDir(), "store")})
			var list fault.List
			if !errors.As(err, &list) {
				t.Fatalf("got %v", err)
			}
			for _, code := range c.want {
				wantFault(t, err, code)
			}
			requireFree(t, tg.pid())
			tg.finish()
		})
	}
}

// TestVforkIsRefusedSoon: the parent cannot be stopped while its vfork child runs, and must not be waited for with the
// child held.
func TestVforkIsRefusedSoon(t *testing.T) {
	tg := start(t, "idle", "vforked")
	_, err := Snap(context.Background(), tg.pid(), Options{Dir: filepath.Join(t.TempDir(), "store")})
	t.Log(wantFault(t, err, fault.Shared))
	tree, err := findTree(tg.pid())
	if err != nil || len(tree) != 2 {
		t.Fatalf("the tree is %v, %v", tree, err)
	}
	_, err = Snap(context.Background(), tree[1], Options{Dir: filepath.Join(t.TempDir(), "store")}) // the child alone
	t.Log(wantFault(t, err, fault.Shared))
	tg.finish()
}

func TestTracedIsRefused(t *testing.T) {
	tg := waiting(t)
	tracer := ptrace.New()
	defer tracer.Close()
	g, err := tracer.Freeze(context.Background(), []int{tg.pid()}, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Snap(context.Background(), tg.pid(), Options{Dir: filepath.Join(t.TempDir(), "store")})
	t.Log(wantFault(t, err, fault.Traced))
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}
	tg.finish()
}

// TestCheckFindsEverythingAtOnce checks a program with several things that cannot be saved, without stopping it.
func TestCheckFindsEverythingAtOnce(t *testing.T) {
	tg := start(t, "idle", "refused")
	awaitState(t, tg.pid(), "S")
	before := observe(t, tg.pid())
	r, err := Check(context.Background(), tg.pid(), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := r.Blockers.Error()
	t.Log(text)
	for _, want := range []string{"SysV", "io_uring", "uts namespace", "socket"} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing of %s", want)
		}
	}
	after := observe(t, tg.pid())
	for name := range before {
		if before[name] != after[name] {
			t.Errorf("%s changed from %q to %q", name, before[name], after[name])
		}
	}
	tg.finish()
}

func TestCheckOfPlainProgramFindsNothing(t *testing.T) {
	tg := waiting(t)
	r, err := Check(context.Background(), tg.pid(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Blockers) != 0 || len(r.Pids) != 1 {
		t.Errorf("%+v", r)
	}
	tg.finish()
}
