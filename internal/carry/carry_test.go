package carry

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procid"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// sweepEnv makes the test binary one that sweeps the directory it names, as the first process of a pid namespace.
const sweepEnv = "CARRY_TEST_SWEEP"

func TestMain(m *testing.M) {
	if dir := os.Getenv(sweepEnv); dir != "" {
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			panic(err)
		}
		Store{dir, own()}.Sweep()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// own is the view of the tests, which is as the tool's.
func own() *view.View {
	v, err := view.Own()
	if err != nil {
		panic(err)
	}
	return v
}

func me(t *testing.T) procid.ID {
	t.Helper()
	id, err := own().Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestPutGetAndSweep(t *testing.T) {
	s := Store{filepath.Join(t.TempDir(), "run"), own()}
	id := me(t)
	if _, ok, err := s.Get(id); ok || err != nil {
		t.Fatalf("a record before the first: %v, %v", ok, err)
	}
	want := Record{Usage: model.Usage{UTime: 5, Wall: 1 << 40, MaxRSS: 4096}, Image: "0123456789ab"}
	earlier, beyond, elsewhere := id, id, id
	earlier.Start -= 1000 // a process that had the pid
	beyond.Pid = 1<<22 + 1
	elsewhere.NS++
	for _, id := range []procid.ID{id, earlier, beyond, id} {
		if err := s.Put(id, want); err != nil {
			t.Fatal(err)
		}
	}
	s.Sweep()
	got, ok, err := s.Get(id)
	if got.Usage != want.Usage || got.Image != want.Image || !ok || err != nil {
		t.Errorf("got %+v, %v, %v", got, ok, err)
	}
	if _, ok, _ := s.Get(elsewhere); ok {
		t.Error("a process of another pid namespace has the record of this one")
	}
	near := id
	near.Start++ // as one sees it from another time namespace
	if _, ok, err := s.Get(near); !ok || err != nil {
		t.Errorf("one tick later: %v, %v", ok, err)
	}
	if err := asNobody(func() error {
		if _, ok, err := s.Get(id); ok || err != nil {
			return fmt.Errorf("another user's record: %v, %w", ok, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 {
		t.Fatalf("records of dead processes stay: %v", left)
	}
	if info, err := left[0].Info(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// Records that an earlier version made are found, and those of dead processes go.
func TestOldNames(t *testing.T) {
	s := Store{t.TempDir(), own()}
	id := me(t)
	for _, start := range []uint64{id.Start, id.Start - 1000} {
		name := filepath.Join(s.Dir, fmt.Sprintf("%d-%d.json", id.Pid, start))
		if err := os.WriteFile(name, []byte(`{"utime":7,"image":"0123456789ab"}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok, err := s.Get(id); !ok || err != nil || got.Image != "0123456789ab" {
		t.Errorf("got %+v, %v, %v", got, ok, err)
	}
	s.Sweep()
	if left, err := os.ReadDir(s.Dir); err != nil || (len(left) == 1) != (id.NS == procid.Initial) {
		t.Errorf("%d are left, %v", len(left), err)
	}
}

// A record of an earlier boot, in a directory that outlives one, is of nobody.
func TestOtherBoot(t *testing.T) {
	s := Store{t.TempDir(), own()}
	id := me(t)
	if err := os.WriteFile(s.path(id), []byte(`{"utime":7,"boot":"00000000-0000-0000-0000-000000000000"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Get(id); ok || err != nil {
		t.Errorf("found %v, %v", ok, err)
	}
	s.Sweep()
	if left, err := os.ReadDir(s.Dir); err != nil || len(left) > 0 {
		t.Errorf("%d are left, %v", len(left), err)
	}
}

// Who sweeps inside a pid namespace sees nothing of the processes outside, and leaves their records alone, those of
// earlier versions too.
func TestSweepInside(t *testing.T) {
	s := Store{t.TempDir(), own()}
	id := me(t)
	if err := s.Put(id, Record{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.oldPath(id), []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), sweepEnv+"="+s.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Unshareflags: unix.CLONE_NEWNS,
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if left, err := os.ReadDir(s.Dir); err != nil || len(left) != 2 {
		t.Errorf("%d of 2 are left, %v", len(left), err)
	}
}

// asNobody runs f on a thread of its own that has the rights of no user; the thread ends with it.
func asNobody(f func() error) error {
	const nobody = 65534
	err := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			err <- errno
			return
		}
		err <- f()
	}()
	return <-err
}
