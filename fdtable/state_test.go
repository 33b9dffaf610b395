package fdtable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// stateOf describes some of the test process's own descriptors the way a source would, as a tree of this one process.
func stateOf(t *testing.T, fds ...int) *model.State {
	t.Helper()
	pid := os.Getpid()
	st := &model.State{Root: pid, Processes: []model.Process{{
		Pid: pid, Pgid: unix.Getpgrp(),
		Threads: []model.Thread{{Tid: pid}},
	}}}
	p := &st.Processes[0]
	for _, fd := range fds {
		id := 0
		for _, other := range p.FDs {
			if sameDescription(t, other.Num, fd) {
				id = other.File
			}
		}
		if id == 0 {
			id = len(st.Files) + 1
			st.Files = append(st.Files, describe(t, id, fd))
		}
		p.FDs = append(p.FDs, model.FD{Num: fd, File: id})
	}
	return st
}

// sameDescription asks kcmp(2) whether two descriptors share a description.
func sameDescription(t *testing.T, a, b int) bool {
	t.Helper()
	const kcmpFile = 0
	pid := uintptr(os.Getpid())
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, kcmpFile, uintptr(a), uintptr(b), 0)
	if errno != 0 {
		t.Fatalf("kcmp: %v", errno)
	}
	return r == 0
}

func describe(t *testing.T, id, fd int) model.File {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	info, err := procfs.Pid(os.Getpid()).FDInfo(fd)
	must(t, err)
	return model.File{
		ID: id, Flags: info.Flags &^ unix.O_CLOEXEC, Pos: info.Pos, Mode: st.Mode, Dev: st.Dev, Ino: st.Ino,
		Rdev: st.Rdev,
		Path: pathOf(t, fd),
	}
}

func pathOf(t *testing.T, fd int) string {
	t.Helper()
	path, err := os.Readlink(selfLink(fd))
	must(t, err)
	return path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dupOwn is Input.FD for a tree that is the test process itself.
func dupOwn(pid, fd int) (int, error) {
	if pid != os.Getpid() {
		return -1, fmt.Errorf("pid %d is not ours", pid)
	}
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}

// captured runs Capture and Finish and returns the state as an image would give it back.
func captured(t *testing.T, fds ...int) (*model.State, []*fault.Error) {
	t.Helper()
	in := Input{State: stateOf(t, fds...), View: here()}
	faults := append(Capture(context.Background(), in), Finish(context.Background(), in)...)
	var st model.State
	stored(t, in.State, &st)
	for i, f := range in.State.Files {
		if f.Of != nil {
			st.Files[i].Of = model.FDKindOf(f.Kind).New()
			stored(t, f.Of, st.Files[i].Of)
		}
	}
	return &st, faults
}

// stored sets to to what an image keeps of from.
func stored(t *testing.T, from, to any) {
	t.Helper()
	text, err := json.Marshal(from)
	must(t, err)
	must(t, json.Unmarshal(text, to))
}

// saved is captured where nothing may be refused.
func saved(t *testing.T, fds ...int) *model.State {
	t.Helper()
	st, faults := captured(t, fds...)
	for _, f := range faults {
		t.Errorf("refused: %v", f)
	}
	if t.Failed() {
		t.FailNow()
	}
	return st
}

// memory stands in for the snapshot engine and the restore: it keeps the contents of Unlinked and Shmems.
type memory struct {
	unlinked, shmems map[int][]byte
	files            map[string]*os.File // made so far
}

func keep(t *testing.T, st *model.State) *memory {
	t.Helper()
	m := &memory{unlinked: map[int][]byte{}, shmems: map[int][]byte{}, files: map[string]*os.File{}}
	for _, fd := range st.Processes[0].FDs {
		f := st.Files[fd.File-1]
		if f.Unlinked == 0 && f.Shmem == 0 {
			continue
		}
		content, err := os.ReadFile(selfLink(fd.Num))
		must(t, err)
		if f.Unlinked != 0 {
			m.unlinked[f.Unlinked-1] = content
		} else {
			m.shmems[f.Shmem-1] = content
		}
	}
	return m
}

func (m *memory) unlinkedFile(st *model.State) func(i int) (*os.File, error) {
	return func(i int) (*os.File, error) {
		key := fmt.Sprint("ghost", i)
		if f := m.files[key]; f != nil {
			return f, nil
		}
		f, err := NewUnlinked(&st.Unlinked[i])
		if err != nil {
			return nil, err
		}
		m.files[key] = f
		_, err = f.WriteAt(m.unlinked[i], 0)
		return f, err
	}
}

func (m *memory) shmem(st *model.State) func(i int) (*os.File, error) {
	return func(i int) (*os.File, error) {
		key := fmt.Sprint("shmem", i)
		if f := m.files[key]; f != nil {
			return f, nil
		}
		f, err := NewShmem(&st.Shmems[i])
		if err != nil {
			return nil, err
		}
		m.files[key] = f
		if _, err = f.WriteAt(m.shmems[i], 0); err != nil {
			return nil, err
		}
		return f, Seal(f, &st.Shmems[i])
	}
}

func (m *memory) close() {
	for _, f := range m.files {
		_ = f.Close()
	}
	clear(m.files)
}

// here is the view of the tests, which is as the tool's.
func here() *view.View {
	v, err := view.Own()
	if err != nil {
		panic(err)
	}
	return v
}

// rebuild opens every description of a state. On error nothing stays open.
func rebuild(ctx context.Context, st *model.State, dir, id string, o RebuildOptions) (*Table, error) {
	o.View = here()
	r := begin(ctx, st, dir, id, o)
	err := error(nil)
	for i := 0; i < len(st.Files) && err == nil; i++ {
		err = r.Open(i)
	}
	if err != nil {
		r.Table().Close()
		return nil, err
	}
	return r.Table(), nil
}

// rebuilt rebuilds a state; dir is where tails go.
func rebuilt(t *testing.T, st *model.State, m *memory, dir string, o RebuildOptions) *Table {
	t.Helper()
	o.Unlinked, o.Temp, o.Shmem = m.unlinkedFile(st), m.unlinkedFile(st), m.shmem(st)
	table, err := rebuild(context.Background(), st, dir, "0123456789ab", o)
	if err != nil {
		t.Fatalf("rebuild: %v", err)
	}
	t.Cleanup(func() { table.Close(); m.close() })
	return table
}

// mustFault checks the code of err and that its one line names all of words.
func mustFault(t *testing.T, err error, code fault.Code, words ...string) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) {
		t.Fatalf("got %v, want a fault %s", err, code)
	}
	if f.Code != code {
		t.Errorf("got %v, want code %s", f, code)
	}
	for _, w := range words {
		if !strings.Contains(f.Error(), w) {
			t.Errorf("%q does not name %q", f, w)
		}
	}
	if f.Advice() == "" {
		t.Errorf("%v has no remedy", f)
	}
}

// openFDs counts the descriptors of this process.
func openFDs(t *testing.T) int {
	t.Helper()
	fds, err := procfs.Dir("/proc/self").FDs()
	must(t, err)
	return len(fds)
}
