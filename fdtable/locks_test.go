package fdtable

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// locked runs make on a new file, and returns the record of its locks.
func locked(t *testing.T, flags int, lock func(fd int) error) (*model.State, int, string) {
	t.Helper()
	dir := t.TempDir()
	fd := file(t, dir, "0123456789", flags)
	must(t, lock(fd))
	return saved(t, fd), fd, filepath.Join(dir, "file")
}

func TestFlock(t *testing.T) {
	for _, how := range []int{unix.LOCK_EX, unix.LOCK_SH} {
		st, fd, path := locked(t, unix.O_RDONLY, func(fd int) error { return unix.Flock(fd, how) })
		if l := st.Files[0].Locks; len(l) != 1 || l[0].Type != lockFlock || l[0].Write != (how == unix.LOCK_EX) {
			t.Fatalf("locks %+v", l)
		}
		if how == unix.LOCK_EX {
			_, err := rebuild(context.Background(), st, t.TempDir(), "id", RebuildOptions{})
			mustFault(t, err, fault.FDLocked, path)
		}
		vacate(t, []int{fd})
		table := rebuilt(t, st, keep(t, &model.State{Processes: make([]model.Process, 1)}), t.TempDir(),
			RebuildOptions{})
		put(t, st, table)
		other := open(t, path, unix.O_RDONLY)
		if err := unix.Flock(other, unix.LOCK_EX|unix.LOCK_NB); err != unix.EAGAIN {
			t.Errorf("the lock is not taken again: %v", err)
		}
		if l := saved(t, fd).Files[0].Locks; len(l) != 1 || l[0] != st.Files[0].Locks[0] {
			t.Errorf("locks %+v, were %+v", l, st.Files[0].Locks)
		}
		_, _ = unix.Close(other), unix.Close(fd)
	}
}

func TestOFDLock(t *testing.T) {
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: 2, Len: 3}
	st, fd, path := locked(t, unix.O_RDWR,
		func(fd int) error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lk) })
	if l := st.Files[0].Locks; len(l) != 1 ||
		l[0] != (model.Lock{Type: lockOFD, Write: true, Start: 2, End: 4, Pid: -1}) {
		t.Fatalf("locks %+v", l)
	}
	must(t, unix.Close(fd))
	rebuilt(t, st, keep(t, &model.State{Processes: make([]model.Process, 1)}), t.TempDir(), RebuildOptions{})
	other := open(t, path, unix.O_RDWR)
	defer func() { _ = unix.Close(other) }()
	for start, want := range map[int64]bool{0: false, 4: true, 5: false} {
		probe := unix.Flock_t{Type: unix.F_WRLCK, Start: start, Len: 1}
		must(t, unix.FcntlFlock(uintptr(other), unix.F_OFD_GETLK, &probe))
		if got := probe.Type != unix.F_UNLCK; got != want {
			t.Errorf("byte %d is locked: %v, want %v", start, got, want)
		}
	}
}

func TestPosixLock(t *testing.T) {
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: 5}
	st, fd, _ := locked(t, unix.O_RDWR, func(fd int) error { return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &lk) })
	want := model.Lock{Type: lockPosix, Write: true, Start: 5, End: -1, Pid: os.Getpid()}
	if l := st.Files[0].Locks; len(l) != 1 || l[0] != want {
		t.Fatalf("locks %+v", l)
	}
	must(t, unix.Close(fd))
	table := rebuilt(t, st, keep(t, &model.State{Processes: make([]model.Process, 1)}), t.TempDir(), RebuildOptions{})
	steps := table.Steps(os.Getpid())
	if len(steps) != 1 || !slices.Equal(steps[0].Args, []uint64{uint64(fd), unix.F_SETLK}) || len(steps[0].Data) != 32 {
		t.Fatalf("steps %+v", steps)
	}
	d := steps[0].Data
	if binary.NativeEndian.Uint16(d) != unix.F_WRLCK || binary.NativeEndian.Uint64(d[8:]) != 5 ||
		binary.NativeEndian.Uint64(d[16:]) != 0 {
		t.Errorf("struct flock %x", d)
	}
	if steps := table.Steps(1); len(steps) != 0 {
		t.Errorf("steps of another process %+v", steps)
	}
}

// fdinfo shows a POSIX lock at every descriptor of the file; it is recorded once, where it can be taken again.
func TestPosixLockTwoDescriptors(t *testing.T) {
	dir := t.TempDir()
	w := file(t, dir, "0123456789", unix.O_RDWR)
	r := open(t, filepath.Join(dir, "file"), unix.O_RDONLY)
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: 0, Len: 1}
	must(t, unix.FcntlFlock(uintptr(w), unix.F_SETLK, &lk))
	st := saved(t, r, w)
	if len(st.Files[0].Locks) != 0 || len(st.Files[1].Locks) != 1 {
		t.Errorf("locks %+v and %+v", st.Files[0].Locks, st.Files[1].Locks)
	}
	_, _ = unix.Close(r), unix.Close(w)
}

func TestOwner(t *testing.T) {
	fds := pipeWith(0, "")(t, "")
	_, err := unix.FcntlInt(uintptr(fds[0]), unix.F_SETOWN, os.Getpid())
	must(t, err)
	_, err = unix.FcntlInt(uintptr(fds[0]), unix.F_SETSIG, int(unix.SIGURG))
	must(t, err)
	_, err = unix.FcntlInt(uintptr(fds[0]), unix.F_SETFL, unix.O_ASYNC|unix.O_NONBLOCK)
	must(t, err)
	st := saved(t, fds...)
	want := model.FOwner{Type: ownerPID, ID: os.Getpid(), Signal: int(unix.SIGURG)}
	if got := st.Files[0].Owner; got != want {
		t.Errorf("owner %+v, want %+v", got, want)
	}
	_, _ = unix.Close(fds[0]), unix.Close(fds[1])
	table := rebuilt(t, st, keep(t, st), t.TempDir(), RebuildOptions{})
	steps := table.Steps(os.Getpid())
	fd := uint64(fds[0])
	wants := [][]uint64{
		{fd, unix.F_SETOWN_EX},
		{fd, unix.F_SETSIG, uint64(unix.SIGURG)},
		{fd, unix.F_SETFL, unix.O_ASYNC | unix.O_NONBLOCK},
	}
	if len(steps) != len(wants) || len(steps[0].Data) != 8 {
		t.Fatalf("steps %+v", steps)
	}
	for i, want := range wants {
		if steps[i].Call != unix.SYS_FCNTL || !slices.Equal(steps[i].Args, want) {
			t.Errorf("step %+v, want %v", steps[i], want)
		}
	}
}
