package carry

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

func TestPutGetAndSweep(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "run")}
	me, err := procfs.Pid(os.Getpid()).Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Get(me.Pid, me.StartTime); ok || err != nil {
		t.Fatalf("a record before the first: %v, %v", ok, err)
	}
	want := image.Usage{UTime: 5, Wall: 1 << 40, MaxRSS: 4096}
	if err := s.Put(me.Pid, me.StartTime, want); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(me.Pid, me.StartTime+1, want); err != nil { // an earlier process of the same pid
		t.Fatal(err)
	}
	if err := s.Put(1<<22+1, 7, want); err != nil { // beyond every pid
		t.Fatal(err)
	}
	if err := s.Put(me.Pid, me.StartTime, want); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := s.Get(me.Pid, me.StartTime); got != want || !ok || err != nil {
		t.Errorf("got %+v, %v, %v", got, ok, err)
	}
	if err := asNobody(func() error {
		if _, ok, err := s.Get(me.Pid, me.StartTime); ok || err != nil {
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
		t.Errorf("records of dead processes stay: %v", left)
	}
	if info, err := left[0].Info(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
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
