package fdtable

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/policy"
)

const logText = "one\n"

// rotate gives the log another name and puts another program's file in its place.
func rotate(t *testing.T, path string) {
	t.Helper()
	must(t, os.Rename(path, path+".1"))
	must(t, os.WriteFile(path, []byte("another program's lines\n"), 0o600))
}

// A log that was rotated: the descriptor stays with the file it had, and what has its name now is nobody's to write to.
func TestRotatedFile(t *testing.T) {
	for _, flags := range []int{unix.O_WRONLY | unix.O_APPEND, unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY} {
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		fd := seekTo(t, file(t, dir, logText, flags), 4)
		st := saved(t, fd)
		must(t, unix.Close(fd))
		rotate(t, path)
		table := rebuilt(t, st, keep(t, &model.State{Processes: make([]model.Process, 1)}), dir, RebuildOptions{})
		if got := pathOf(t, table.FD(1)); got != path+".1" {
			t.Errorf("flags %#o: it is %s", flags, got)
		}
		notes, err := table.Commit()
		must(t, err)
		if len(notes) != 1 || !strings.Contains(notes[0], path+".1") {
			t.Errorf("flags %#o: notes %q", flags, notes)
		}
		if text, _ := os.ReadFile(path); string(text) != "another program's lines\n" {
			t.Errorf("flags %#o: the other file is %q", flags, text)
		}
	}
}

// The file of the snapshot is nowhere to be found: nothing is written to the one that has its name, unless that is a
// faithful copy.
func TestReplacedFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	fd := file(t, dir, logText, unix.O_WRONLY|unix.O_APPEND)
	st := saved(t, fd)
	must(t, unix.Close(fd))
	rotate(t, path)
	must(t, os.Rename(path+".1", filepath.Join(t.TempDir(), "log")))
	_, err := rebuild(context.Background(), st, dir, "id", RebuildOptions{})
	mustFault(t, err, fault.FileChanged, path, "another file has its name", "cp -p")
	must(t, os.WriteFile(path, []byte(logText), 0o600))
	when := unix.NsecToTimespec(st.Files[0].MTime)
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{when, when}, 0))
	rebuilt(t, st, keep(t, &model.State{Processes: make([]model.Process, 1)}), dir, RebuildOptions{})
}

// An inode number that was given to another file is told by the time the file was made.
func TestInodeNumberUsedAgain(t *testing.T) {
	dir := t.TempDir()
	fd := file(t, dir, logText, unix.O_WRONLY|unix.O_APPEND)
	st := saved(t, fd)
	must(t, unix.Close(fd))
	if st.Files[0].Born == 0 {
		t.Skip("this file system does not tell when a file was made")
	}
	st.Files[0].Born--
	st.Files[0].MTime--
	_, err := rebuild(context.Background(), st, dir, "id", RebuildOptions{})
	mustFault(t, err, fault.FileChanged, "another file has its name")
}

// holder starts a process outside that has a file open. It returns what ends it.
func holder(t *testing.T, path string, flags int) (end func()) {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	must(t, err)
	pid := sleeper(t, f)
	must(t, f.Close())
	return func() { ended(t, pid) }
}

func ended(t *testing.T, pid int) {
	t.Helper()
	must(t, unix.Kill(pid, unix.SIGKILL))
	for fds := 1; fds > 0; time.Sleep(time.Millisecond) { // it may stay a zombie
		open, _ := procfs.Pid(pid).FDs()
		fds = len(open)
	}
}

// mapper starts a process outside that has a file mapped shared and writable, and no descriptor of it.
func mapper(t *testing.T, path string) (end func()) {
	t.Helper()
	const program = `
import ctypes, os, sys, time
f = os.open(sys.argv[1], os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
at = libc.mmap(None, ctypes.c_size_t(4096), 3, 1, f, ctypes.c_long(0))
os.close(f)
print(os.getpid(), flush=True)
os.close(1)
time.sleep(60)`
	const start = `python3 -c "$0" "$1" 2>/dev/null &`
	out, err := exec.Command("sh", "-c", start, program, path).Output() // until it closes its output
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	must(t, err)
	end = func() { ended(t, pid) }
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) })
	return end
}

// emptyMemory is for states without nameless files.
func emptyMemory(t *testing.T) *memory {
	return keep(t, &model.State{Processes: make([]model.Process, 1)})
}

// committed rebuilds a state and commits it, and returns the notes.
func committed(t *testing.T, st *model.State) (*Table, string) {
	t.Helper()
	table := rebuilt(t, st, emptyMemory(t), t.TempDir(), RebuildOptions{})
	notes, err := table.Commit()
	must(t, err)
	return table, strings.Join(notes, "\n")
}

// outside is holder with flags.
func outside(flags int) func(t *testing.T, path string) (end func()) {
	return func(t *testing.T, path string) func() { return holder(t, path, flags) }
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString(text)
	must(t, err)
	must(t, f.Close())
}

// What somebody else writes to is not cut, whether he has the file open when it is restored or had it when it was
// saved.
func TestGrownFileOfOthers(t *testing.T) {
	cases := []struct {
		name          string
		before, after func(t *testing.T, path string) (end func())
		cut           bool
	}{
		{name: "nobody else", cut: true},
		{name: "a writer now", after: outside(os.O_WRONLY)},
		{name: "a reader now", after: outside(os.O_RDONLY), cut: true},
		{name: "one at the snapshot", before: outside(os.O_WRONLY | os.O_APPEND)},
		{name: "a mapping now", after: mapper},
		{name: "our own stream", cut: true, after: func(t *testing.T, p string) func() {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			must(t, err)
			return func() { _ = f.Close() }
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "a mapping now" && os.Getenv("BPFCKPT_GUEST") != "" {
				t.Skip("the guests of the kernel matrix have no python3; the host runs this")
			}
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			fd := file(t, dir, logText, unix.O_WRONLY|unix.O_APPEND)
			end := func() {}
			if c.before != nil {
				end = c.before(t, path)
			}
			st := saved(t, fd)
			must(t, unix.Close(fd))
			end()
			appendTo(t, path, "two\n")
			if c.after != nil {
				defer c.after(t, path)()
			}
			_, notes := committed(t, st)
			want, words := logText, "cut back"
			if !c.cut {
				want, words = logText+"two\n", "left so"
			}
			text, _ := os.ReadFile(path)
			if string(text) != want || !strings.Contains(notes, words) || !strings.Contains(notes, path) {
				t.Errorf("the file is %q; notes %q", text, notes)
			}
		})
	}
}

// A file that has grown is cut back, left or refused, as the policy says; if it is left, others of its descriptors go on
// at its end. What the policy says of files that were changed is not asked.
func TestGrownFileByPolicy(t *testing.T) {
	for _, c := range []struct {
		action, files policy.Action
		want, told    string
	}{
		{policy.Rollback, policy.Note, logText, "cut back"},
		{policy.Rollback, policy.Verify, logText, "cut back"},
		{policy.Note, policy.Note, logText + "two\n", "left so: the policy says so"},
		{policy.Note, policy.Verify, logText + "two\n", "left so: the policy says so"},
		{policy.Verify, policy.Note, "", "it has grown by 4 bytes"},
	} {
		t.Run(string(c.action)+" "+string(c.files), func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			plain := seekTo(t, file(t, dir, logText, unix.O_WRONLY), int64(len(logText)))
			adds := open(t, path, unix.O_WRONLY|unix.O_APPEND)
			st := saved(t, plain, adds)
			must(t, errors.Join(unix.Close(plain), unix.Close(adds)))
			appendTo(t, path, "two\n")
			pol := policy.Policy{policy.Appended: c.action, policy.Files: c.files}
			table, err := rebuild(context.Background(), st, dir, "id", RebuildOptions{Policy: pol})
			if c.want == "" {
				mustFault(t, err, fault.FileChanged, path, c.told)
				return
			}
			must(t, err)
			defer table.Close()
			notes, err := table.Commit()
			must(t, err)
			_, err = unix.Write(table.FD(1), []byte("end"))
			must(t, err)
			text, _ := os.ReadFile(path)
			if string(text) != c.want+"end" || !strings.Contains(strings.Join(notes, "\n"), c.told) {
				t.Errorf("the file is %q; notes %q", text, notes)
			}
		})
	}
}

// A file that was emptied and written anew has grown beyond its end, but not from there: it is not cut in the middle of
// what is another's.
func TestEmptiedAndGrownFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	fd := file(t, dir, logText, unix.O_WRONLY|unix.O_APPEND)
	st := saved(t, fd)
	must(t, unix.Close(fd))
	must(t, os.Truncate(path, 0))
	appendTo(t, path, "another program's lines\n")
	_, err := rebuild(context.Background(), st, dir, "id", RebuildOptions{})
	mustFault(t, err, fault.FileChanged, path, "written anew")
}

// What only writes, and stood at the end of a file to which others write, goes on at the end.
func TestEndOfFileOfOthers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	fd := seekTo(t, file(t, dir, logText, unix.O_WRONLY), 4)
	st := saved(t, fd)
	must(t, unix.Close(fd))
	appendTo(t, path, "two\n")
	holder(t, path, os.O_WRONLY|os.O_APPEND)
	table, notes := committed(t, st)
	_, err := unix.Write(table.FD(1), []byte("three\n"))
	must(t, err)
	if text, _ := os.ReadFile(path); string(text) != "one\ntwo\nthree\n" || !strings.Contains(notes, path) {
		t.Errorf("the file is %q; notes %q", text, notes)
	}
}

// tick waits until the clock that files have their times from has gone on: it is coarse (Linux before 6.13).
func tick(t *testing.T, dir string) {
	t.Helper()
	touched := func() time.Time {
		name := filepath.Join(dir, "tick")
		must(t, os.WriteFile(name, nil, 0o600))
		must(t, os.Chtimes(name, time.Time{}, time.Now().Add(-time.Hour)))
		must(t, os.WriteFile(name, []byte("x"), 0o600))
		st, err := os.Stat(name)
		must(t, err)
		return st.ModTime()
	}
	for first := touched(); !touched().After(first); {
		time.Sleep(time.Millisecond)
	}
}

// What was changed in place is told by name, or refused.
func TestChangedInPlace(t *testing.T) {
	cases := []struct {
		name   string
		flags  int
		pos    int64
		change func(t *testing.T, path string)
		told   bool
		verify bool // is refused
	}{
		{"untouched", unix.O_RDWR, 0, func(*testing.T, string) {}, false, false},
		{"written to", unix.O_RDWR, 0, overwrite, true, true},
		{"written to, write only", unix.O_WRONLY, 0, overwrite, true, true},
		{"written to at the end", unix.O_WRONLY, 4, overwrite, true, true},
		{"grown, read and write", unix.O_RDWR, 4, func(t *testing.T, p string) { appendTo(t, p, "two") }, true, true},
		{"grown behind the end", unix.O_WRONLY, 4, func(t *testing.T, p string) { appendTo(t, p, "two") }, false, true},
		{
			"appended to", unix.O_RDWR | unix.O_APPEND, 0, func(t *testing.T, p string) { appendTo(t, p, "two") }, true,
			false,
		},
		{"its mode", unix.O_RDWR, 0, func(t *testing.T, p string) { must(t, os.Chmod(p, 0o600)) }, true, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			fd := seekTo(t, file(t, dir, logText, c.flags), c.pos)
			st := saved(t, fd)
			must(t, unix.Close(fd))
			tick(t, dir)
			c.change(t, path)
			table, err := rebuild(context.Background(), st, dir, "id", RebuildOptions{Policy: policy.Policy{policy.Files: policy.Verify}})
			if c.verify {
				mustFault(t, err, fault.FileChanged, path, "--files note")
			} else {
				must(t, err)
				table.Close()
			}
			if _, notes := committed(t, st); strings.Contains(notes, path) != c.told {
				t.Errorf("notes %q", notes)
			}
		})
	}
}

func overwrite(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("ONE\n")
	must(t, err)
	must(t, f.Close())
}

// A standard stream that leads to a file to which somebody outside writes is that of the restore; other descriptors of
// it are opened by name.
func TestStdFileOfOthers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	a, b := file(t, dir, logText, unix.O_WRONLY|unix.O_APPEND), open(t, path, unix.O_WRONLY|unix.O_APPEND)
	defer func() { _, _ = unix.Close(a), unix.Close(b) }()
	st, faults := asStd(t, []int{a, b}, []int{1, 7})
	accepted(t, faults)
	if st.Files[0].Std != 0 {
		t.Errorf("without anybody else it is recorded as %+v", st.Files[0])
	}
	holder(t, path, os.O_WRONLY|os.O_APPEND)
	st, faults = asStd(t, []int{a, b}, []int{1, 7})
	accepted(t, faults)
	if st.Files[0].Std != 2 || st.Files[1].Std != 0 || !st.Files[1].Others {
		t.Fatalf("recorded as %+v", st.Files)
	}
	out, err := os.Create(filepath.Join(dir, "out"))
	must(t, err)
	defer func() { _ = out.Close() }()
	std := [3]*os.File{nil, out, nil}
	for _, c := range []struct {
		o    RebuildOptions
		want string
	}{
		{RebuildOptions{Std: std}, out.Name()},
		{RebuildOptions{Std: std, Policy: nowhere}, path},
		{RebuildOptions{}, path},
	} {
		table := rebuilt(t, st, emptyMemory(t), dir, c.o)
		if got := pathOf(t, table.FDFor(1, 1)); got != c.want {
			t.Errorf("standard output is %s and should be %s", got, c.want)
		}
		if got := pathOf(t, table.FDFor(2, 7)); got != path {
			t.Errorf("descriptor 7 is %s", got)
		}
	}
}
