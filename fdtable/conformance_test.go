package fdtable

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
)

// A specimen is a description of one kind in one state. All of them go through the same: captured, written out, closed,
// rebuilt, and compared in status flags, position, name and content.
type specimen struct {
	name    string
	kind    string
	make    func(t *testing.T, dir string) []int // the descriptors; closed by the suite
	renamed bool                                 // the name is not kept: a deleted file, a terminal
	check   func(t *testing.T, st *model.State, fds []int)
}

func open(t *testing.T, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o640)
	must(t, err)
	return fd
}

// file makes a file with content and opens it.
func file(t *testing.T, dir, content string, flags int) int {
	t.Helper()
	path := filepath.Join(dir, "file")
	must(t, os.WriteFile(path, []byte(content), 0o640))
	return open(t, path, flags)
}

func seekTo(t *testing.T, fd int, pos int64) int {
	t.Helper()
	_, err := unix.Seek(fd, pos, unix.SEEK_SET)
	must(t, err)
	return fd
}

func regularAt(content string, flags int, pos int64) func(t *testing.T, dir string) []int {
	return func(t *testing.T, dir string) []int { return []int{seekTo(t, file(t, dir, content, flags), pos)} }
}

func opened(path string, flags int) func(*testing.T, string) []int {
	return func(t *testing.T, _ string) []int { return []int{open(t, path, flags)} }
}

// readsAs checks what reading from each descriptor gives from where it stands.
func readsAs(want string) func(*testing.T, *model.State, []int) {
	return func(t *testing.T, _ *model.State, fds []int) {
		t.Helper()
		got := make([]byte, len(want)+10)
		n, err := unix.Read(fds[0], got)
		if err != nil || string(got[:n]) != want {
			t.Errorf("reads %q (%v), want %q", got[:max(n, 0)], err, want)
		}
	}
}

var specimens = []specimen{
	{name: "read only", kind: kindRegular, make: regularAt("hello world", unix.O_RDONLY, 6), check: readsAs("world")},
	{name: "write only", kind: kindRegular, make: regularAt("hello", unix.O_WRONLY|unix.O_TRUNC, 0)},
	{name: "past the end", kind: kindRegular, make: regularAt("hello", unix.O_RDWR, 1<<33)},
	{name: "append", kind: kindRegular, make: regularAt("hello", unix.O_RDWR|unix.O_APPEND, 3), check: readsAs("lo")},
	{
		name: "sync nonblocking noatime", kind: kindRegular,
		make: regularAt("hello", unix.O_RDWR|unix.O_SYNC|unix.O_NONBLOCK|unix.O_NOATIME, 1),
	},
	{name: "dsync nofollow", kind: kindRegular, make: regularAt("hello", unix.O_RDWR|unix.O_DSYNC|unix.O_NOFOLLOW, 1)},
	{name: "direct", kind: kindRegular, make: func(t *testing.T, dir string) []int {
		fd := file(t, dir, "hello", unix.O_RDONLY)
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_DIRECT); err != nil {
			t.Logf("O_DIRECT: %v", err) // a tmpfs before Linux 6.6: a plain file then
		}
		return []int{fd}
	}},
	{name: "unlinked", kind: kindRegular, renamed: true, make: func(t *testing.T, dir string) []int {
		fd := file(t, dir, "ghostly", unix.O_RDWR|unix.O_APPEND)
		must(t, os.Remove(filepath.Join(dir, "file")))
		return []int{seekTo(t, fd, 5)}
	}, check: readsAs("ly")},
	{name: "unlinked, opened twice", kind: kindRegular, renamed: true, make: func(t *testing.T, dir string) []int {
		a := file(t, dir, "ghostly", unix.O_RDONLY)
		b := open(t, filepath.Join(dir, "file"), unix.O_WRONLY)
		must(t, os.Remove(filepath.Join(dir, "file")))
		return []int{a, b}
	}, check: sameFile},
	{name: "replaced", kind: kindRegular, renamed: true, make: func(t *testing.T, dir string) []int {
		fd := file(t, dir, "old", unix.O_RDONLY)
		must(t, os.WriteFile(filepath.Join(dir, "new"), []byte("newer"), 0o600))
		must(t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "file")))
		return []int{fd}
	}, check: readsAs("old")},
	{name: "nameless", kind: kindRegular, renamed: true, make: func(t *testing.T, dir string) []int {
		fd := open(t, dir, unix.O_TMPFILE|unix.O_RDWR)
		_, err := unix.Write(fd, []byte("temporary"))
		must(t, err)
		return []int{seekTo(t, fd, 4)}
	}, check: readsAs("orary")},
	{name: "renamed", kind: kindRegular, make: func(t *testing.T, dir string) []int {
		fd := file(t, dir, "moved", unix.O_RDONLY)
		must(t, os.Rename(filepath.Join(dir, "file"), filepath.Join(dir, "elsewhere")))
		return []int{fd}
	}, check: readsAs("moved")},
	{name: "one of two names removed", kind: kindRegular, renamed: true, make: func(t *testing.T, dir string) []int {
		fd := file(t, dir, "linked", unix.O_RDONLY)
		must(t, os.Link(filepath.Join(dir, "file"), filepath.Join(dir, "other")))
		must(t, os.Remove(filepath.Join(dir, "file")))
		return []int{fd}
	}, check: readsAs("linked")},
	{name: "a name that ends in (deleted)", kind: kindRegular, make: func(t *testing.T, dir string) []int {
		path := filepath.Join(dir, "odd (deleted)")
		must(t, os.WriteFile(path, []byte("odd"), 0o600))
		return []int{open(t, path, unix.O_RDONLY)}
	}, check: readsAs("odd")},
	{name: "duplicated", kind: kindRegular, make: func(t *testing.T, dir string) []int {
		fd := file(t, dir, "hello", unix.O_RDONLY)
		dup, err := unix.Dup(fd)
		must(t, err)
		return []int{fd, dup}
	}},
	{name: "directory", kind: kindDir, make: func(t *testing.T, dir string) []int {
		return []int{open(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)}
	}},
	{
		name: "directory half listed", kind: kindDir, make: halfListed,
		check: func(t *testing.T, _ *model.State, fds []int) {
			if got := len(listRest(t, fds[0])); got != 300-halfCount(t) {
				t.Errorf("%d entries are left", got)
			}
		},
	},
	{name: "path of a file", kind: kindPath, make: func(t *testing.T, dir string) []int {
		fd := file(t, dir, "hello", unix.O_RDONLY)
		must(t, unix.Close(fd))
		return []int{open(t, filepath.Join(dir, "file"), unix.O_PATH)}
	}},
	{name: "path of a symlink", kind: kindPath, make: func(t *testing.T, dir string) []int {
		must(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
		return []int{open(t, filepath.Join(dir, "link"), unix.O_PATH|unix.O_NOFOLLOW)}
	}},
	{name: "path of a directory", kind: kindPath, make: opened("/etc", unix.O_PATH|unix.O_DIRECTORY)},
	{name: "removed directory", kind: kindDir, renamed: true, make: func(t *testing.T, dir string) []int {
		name := filepath.Join(dir, "gone")
		must(t, os.Mkdir(name, 0o750))
		a, b := open(t, name, unix.O_RDONLY|unix.O_DIRECTORY), open(t, name, unix.O_RDONLY)
		must(t, os.Remove(name))
		return []int{a, b}
	}, check: removedInode(unix.S_IFDIR | 0o750)},
	{name: "removed FIFO", kind: kindFIFO, renamed: true, make: func(t *testing.T, dir string) []int {
		name := filepath.Join(dir, "gone")
		must(t, unix.Mkfifo(name, 0o600))
		r, w := open(t, name, unix.O_RDONLY|unix.O_NONBLOCK), open(t, name, unix.O_WRONLY)
		must(t, os.Remove(name))
		_, err := unix.Write(w, []byte("unread"))
		must(t, err)
		return []int{r, w}
	}, check: func(t *testing.T, st *model.State, fds []int) {
		removedInode(unix.S_IFIFO|0o600)(t, st, fds)
		readsAs("unread")(t, st, fds)
		must(t, unix.Close(fds[1]))
		readsAs("")(t, st, fds) // the end, since nobody has it open for writing
	}},
	{name: "path of a removed file", kind: kindPath, renamed: true, make: func(t *testing.T, dir string) []int {
		fd := file(t, dir, "hello", unix.O_RDWR)
		path := open(t, filepath.Join(dir, "file"), unix.O_PATH)
		must(t, os.Remove(filepath.Join(dir, "file")))
		return []int{path, fd}
	}, check: sameFile},
	{name: "path of a removed directory", kind: kindPath, renamed: true, make: func(t *testing.T, dir string) []int {
		name := filepath.Join(dir, "gone")
		must(t, os.Mkdir(name, 0o700))
		a, b := open(t, name, unix.O_PATH|unix.O_DIRECTORY), open(t, name, unix.O_RDONLY)
		must(t, os.Remove(name))
		return []int{a, b}
	}, check: removedInode(unix.S_IFDIR | 0o700)},
	{name: "path of a removed symlink", kind: kindPath, renamed: true, make: func(t *testing.T, dir string) []int {
		must(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
		fd := open(t, filepath.Join(dir, "link"), unix.O_PATH|unix.O_NOFOLLOW)
		must(t, os.Remove(filepath.Join(dir, "link")))
		return []int{fd}
	}, check: func(t *testing.T, _ *model.State, fds []int) {
		target := make([]byte, 100)
		if n, err := unix.Readlinkat(fds[0], "", target); err != nil || string(target[:n]) != "nowhere" {
			t.Errorf("it leads to %q (%v)", target[:max(n, 0)], err)
		}
	}},
	{name: "null", kind: kindChar, make: opened("/dev/null", unix.O_RDWR)},
	{name: "zero", kind: kindChar, make: opened("/dev/zero", unix.O_RDONLY|unix.O_NONBLOCK)},
	{name: "full", kind: kindChar, make: opened("/dev/full", unix.O_WRONLY)},
	{name: "random", kind: kindChar, make: opened("/dev/random", unix.O_RDONLY)},
	{name: "urandom", kind: kindChar, make: opened("/dev/urandom", unix.O_RDONLY)},
	{name: "meminfo", kind: kindPseudo, make: opened("/proc/meminfo", unix.O_RDONLY)},
	{name: "sysctl", kind: kindPseudo, make: opened("/proc/sys/kernel/hostname", unix.O_RDWR)},
	{name: "list of processes", kind: kindPseudo, make: opened("/proc", unix.O_RDONLY|unix.O_DIRECTORY)},
	{name: "sysfs", kind: kindPseudo, make: opened("/sys/kernel/mm/transparent_hugepage/enabled", unix.O_RDONLY)},
	{name: "pipe", kind: kindPipe, make: pipeWith(0, "left over"), renamed: true, check: readsAs("left over")},
	{
		name: "empty pipe", kind: kindPipe, make: pipeWith(unix.O_NONBLOCK, ""), renamed: true,
		check: func(t *testing.T, _ *model.State, fds []int) {
			if _, err := unix.Read(fds[0], make([]byte, 1)); err != unix.EAGAIN {
				t.Errorf("an empty pipe reads as %v", err)
			}
		},
	},
	{
		name: "full pipe", kind: kindPipe, make: pipeWith(unix.O_NONBLOCK, string(bytes.Repeat([]byte("x"), 65536))),
		renamed: true, check: fullPipe,
	},
	{name: "pipe without readers", kind: kindPipe, renamed: true, make: func(t *testing.T, _ string) []int {
		fds := pipeWith(0, "lost")(t, "")
		must(t, unix.Close(fds[0]))
		return fds[1:]
	}},
	{name: "pipe without writers", kind: kindPipe, renamed: true, make: func(t *testing.T, _ string) []int {
		fds := pipeWith(0, "the end")(t, "")
		must(t, unix.Close(fds[1]))
		return fds[:1]
	}, check: readsAs("the end")},
	{name: "large pipe", kind: kindPipe, renamed: true, make: func(t *testing.T, _ string) []int {
		fds := pipeWith(0, "abc")(t, "")
		_, err := unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, 1<<19)
		must(t, err)
		return fds
	}, check: func(t *testing.T, _ *model.State, fds []int) {
		if n, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETPIPE_SZ, 0); n != 1<<19 {
			t.Errorf("the capacity is %d (%v)", n, err)
		}
		readsAs("abc")(t, nil, fds)
	}},
	{name: "packets", kind: kindPipe, renamed: true, make: func(t *testing.T, _ string) []int {
		fds := pipeWith(unix.O_DIRECT, "one")(t, "")
		_, err := unix.Write(fds[1], []byte("three"))
		must(t, err)
		return fds
	}, check: func(t *testing.T, st *model.State, fds []int) {
		readsAs("one")(t, st, fds)
		readsAs("three")(t, st, fds)
	}},
	{name: "reopened pipe", kind: kindPipe, renamed: true, make: func(t *testing.T, _ string) []int {
		fds := pipeWith(0, "both")(t, "")
		return append(fds, open(t, selfLink(fds[0]), unix.O_RDWR|unix.O_NONBLOCK))
	}, check: readsAs("both")},
	{name: "fifo", kind: kindFIFO, make: func(t *testing.T, dir string) []int {
		path := filepath.Join(dir, "fifo")
		must(t, unix.Mkfifo(path, 0o600))
		r := open(t, path, unix.O_RDONLY|unix.O_NONBLOCK)
		w := open(t, path, unix.O_WRONLY)
		_, err := unix.Write(w, []byte("named"))
		must(t, err)
		return []int{r, w}
	}, check: readsAs("named")},
	{name: "fifo with one end", kind: kindFIFO, make: func(t *testing.T, dir string) []int {
		must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
		return []int{open(t, filepath.Join(dir, "fifo"), unix.O_RDONLY|unix.O_NONBLOCK)}
	}},
	{
		name: "memfd", kind: kindMemfd, make: func(t *testing.T,
			_ string,
		) []int {
			return []int{seekTo(t, memfd(t, "shared", 0), 2)}
		},
		check: func(t *testing.T, st *model.State, fds []int) {
			if now, _, err := knownNow(here(), selfLink(fds[0]), 0); err != nil || !leased(here(), now) {
				t.Error("it counts as open for writing, and could not be executed")
			}
			readsAs("ared")(t, st, fds)
		},
	},
	{name: "sealed memfd", kind: kindMemfd, make: func(t *testing.T, _ string) []int {
		return []int{memfd(t, "sealed", unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)}
	}, check: func(t *testing.T, _ *model.State, fds []int) {
		want := unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
		if got, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GET_SEALS, 0); got != want {
			t.Errorf("seals %#x (%v), want %#x", got, err, want)
		}
	}},
	{name: "memfd opened twice", kind: kindMemfd, make: func(t *testing.T, _ string) []int {
		fd := memfd(t, "twice", 0)
		return []int{fd, open(t, selfLink(fd), unix.O_RDONLY)}
	}, check: sameFile},
}

// removedInode checks that all descriptors are of one inode of that mode without a name.
func removedInode(mode uint32) func(*testing.T, *model.State, []int) {
	return func(t *testing.T, _ *model.State, fds []int) {
		t.Helper()
		var first unix.Stat_t
		for i, fd := range fds {
			var st unix.Stat_t
			must(t, unix.Fstat(fd, &st))
			if i == 0 {
				first = st
			}
			if st.Mode != mode || st.Nlink != 0 || st.Ino != first.Ino {
				t.Errorf("descriptor %d: mode %#o, %d links, inode %d of %d", i, st.Mode, st.Nlink, st.Ino, first.Ino)
			}
		}
	}
}

func sameFile(t *testing.T, _ *model.State, fds []int) {
	t.Helper()
	var a, b unix.Stat_t
	must(t, unix.Fstat(fds[0], &a))
	must(t, unix.Fstat(fds[1], &b))
	if a.Dev != b.Dev || a.Ino != b.Ino {
		t.Error("two descriptors of one file became descriptors of two files")
	}
}

func pipeWith(flags int, content string) func(*testing.T, string) []int {
	return func(t *testing.T, _ string) []int {
		var fds [2]int
		must(t, unix.Pipe2(fds[:], unix.O_CLOEXEC|flags))
		if content != "" {
			_, err := unix.Write(fds[1], []byte(content))
			must(t, err)
		}
		return fds[:]
	}
}

func fullPipe(t *testing.T, _ *model.State, fds []int) {
	t.Helper()
	if _, err := unix.Write(fds[1], []byte("y")); err != unix.EAGAIN {
		t.Errorf("a full pipe takes more (%v)", err)
	}
	got := make([]byte, 70000)
	if n, err := unix.Read(fds[0], got); n != 65536 || bytes.Count(got, []byte("x")) != 65536 {
		t.Errorf("read %d (%v)", n, err)
	}
}

func memfd(t *testing.T, content string, seals int) int {
	t.Helper()
	fd, err := unix.MemfdCreate("test "+content, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	must(t, err)
	_, err = unix.Write(fd, []byte(content))
	must(t, err)
	if seals != 0 {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		must(t, err)
	}
	return fd
}

const listBuffer = 2048

func halfListed(t *testing.T, dir string) []int {
	for i := range 298 { // and . and ..
		must(t, os.WriteFile(filepath.Join(dir, "entry"+string(rune('a'+i%26))+string(rune('a'+i/26))), nil, 0o600))
	}
	fd := open(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	halfDone = len(entries(t, fd))
	return []int{fd}
}

// halfDone is how many entries halfListed read; the suite runs one specimen at a time.
var halfDone int

func halfCount(*testing.T) int { return halfDone }

// entries reads one buffer of a directory and returns the names.
func entries(t *testing.T, fd int) []string {
	t.Helper()
	buf := make([]byte, listBuffer)
	n, err := unix.Getdents(fd, buf)
	must(t, err)
	var names []string
	for rest := buf[:n]; len(rest) > 0; {
		size := int(rest[16]) | int(rest[17])<<8
		names = append(names, string(bytes.TrimRight(rest[19:size], "\x00")))
		rest = rest[size:]
	}
	return names
}

func listRest(t *testing.T, fd int) []string {
	t.Helper()
	var all []string
	for {
		names := entries(t, fd)
		if len(names) == 0 {
			return all
		}
		all = append(all, names...)
	}
}

// looks is what can be seen of a descriptor from outside.
type looks struct {
	flags, pos int64
	path       string
}

func look(t *testing.T, fd int) looks {
	t.Helper()
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	must(t, err)
	f := describe(t, 1, fd)
	if strings.HasPrefix(f.Path, "pipe:[") {
		f.Path = "a pipe" // its number is another one
	}
	return looks{int64(flags) &^ unix.O_CLOEXEC, f.Pos, f.Path}
}

func TestConformance(t *testing.T) { conform(t, specimens) }

func conform(t *testing.T, specimens []specimen) {
	for _, s := range specimens {
		t.Run(s.name, func(t *testing.T) {
			dir := t.TempDir()
			before := openFDs(t)
			fds := s.make(t, dir)
			var want []looks
			for _, fd := range fds {
				want = append(want, look(t, fd))
			}
			st := saved(t, fds...)
			m := keep(t, st)
			for i, fd := range fds {
				if got := look(t, fd); got != want[i] {
					t.Errorf("the capture changed descriptor %d from %+v to %+v", i, want[i], got)
				}
			}
			if k := st.Files[0].Kind; k != s.kind {
				t.Errorf("its kind is %s, want %s", k, s.kind)
			}
			vacate(t, fds)
			table := rebuilt(t, st, m, dir, RebuildOptions{})
			put(t, st, table)
			m.close()
			compare(t, s, st, want)
			if s.check != nil {
				s.check(t, st, fds)
			}
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
			if after := openFDs(t); after != before {
				t.Errorf("%d descriptors are open, %d were", after, before)
			}
		})
	}
}

// vacate closes descriptors but keeps their numbers from being given to others.
func vacate(t *testing.T, fds []int) {
	t.Helper()
	null := open(t, os.DevNull, unix.O_RDONLY)
	defer func() { _ = unix.Close(null) }()
	for _, fd := range fds {
		must(t, unix.Dup3(null, fd, unix.O_CLOEXEC))
	}
}

// put does with a table what restore does: hand over, run the steps in the process, commit, close.
func put(t *testing.T, st *model.State, table *Table) {
	t.Helper()
	for _, fd := range st.Processes[0].FDs {
		must(t, unix.Dup3(table.FDFor(fd.File, fd.Num), fd.Num, unix.O_CLOEXEC))
	}
	for _, s := range table.Steps(os.Getpid()) {
		args := append([]uint64{}, s.Args...)
		if s.Data != nil {
			args = append(args, uint64(addressOf(s.Data)))
		}
		args = append(args, 0, 0, 0)
		_, _, errno := unix.Syscall6(uintptr(s.Call), uintptr(args[0]), uintptr(args[1]), uintptr(args[2]),
			uintptr(args[3]), 0, 0)
		runtime.KeepAlive(s.Data)
		if errno != 0 && errno != s.Ignore {
			t.Errorf("%s: %v", s.Want, errno)
		}
	}
	_, err := table.Commit()
	must(t, err)
	table.Close()
}

// compare holds the rebuilt descriptors against what the originals looked like, and who shares a description with whom.
func compare(t *testing.T, s specimen, st *model.State, want []looks) {
	t.Helper()
	fds := st.Processes[0].FDs
	for i, fd := range fds {
		got := look(t, fd.Num)
		if s.renamed {
			got.path = want[i].path
		}
		if got != want[i] {
			t.Errorf("descriptor %d is %+v, was %+v", i, got, want[i])
		}
		for _, other := range fds[:i] {
			if sameDescription(t, fd.Num, other.Num) != (fd.File == other.File) {
				t.Errorf("descriptors %d and %d share a description or do not, other than before", fd.Num, other.Num)
			}
		}
	}
}
