package fdtable

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

func itoa(n int) string { return strconv.Itoa(n) }

// What may have become of a file between snapshot and restore, and what restore says to it.
func TestChangedFiles(t *testing.T) {
	cases := []struct {
		name   string
		flags  int
		change func(t *testing.T, path string)
		code   fault.Code // "" if the restore goes on
	}{
		{"untouched", unix.O_RDONLY, func(*testing.T, string) {}, ""},
		{"gone", unix.O_RDONLY, func(t *testing.T, p string) { must(t, os.Remove(p)) }, fault.FileGone},
		{
			"shorter, reading", unix.O_RDONLY, func(t *testing.T, p string) { must(t, os.Truncate(p, 3)) },
			fault.FileChanged,
		},
		{
			"shorter, writing", unix.O_RDWR, func(t *testing.T, p string) { must(t, os.Truncate(p, 3)) },
			fault.FileChanged,
		},
		{
			"longer, reading", unix.O_RDONLY, func(t *testing.T, p string) { must(t, os.Truncate(p, 30)) },
			fault.FileChanged,
		},
		{"longer, writing", unix.O_WRONLY, func(t *testing.T, p string) { must(t, os.Truncate(p, 30)) }, ""},
		{"touched, reading", unix.O_RDONLY, touch, fault.FileChanged},
		{"touched, writing", unix.O_RDWR, touch, ""},
		{
			"a directory now", unix.O_RDONLY,
			func(t *testing.T, p string) { must(t, os.Remove(p)); must(t, os.Mkdir(p, 0o700)) }, fault.FileChanged,
		},
		{"a fifo now", unix.O_RDONLY, func(t *testing.T,
			p string,
		) {
			must(t, os.Remove(p))
			must(t, unix.Mkfifo(p, 0o600))
		}, fault.FileChanged},
		{"a link to the same now", unix.O_RDONLY, func(t *testing.T, p string) {
			must(t, os.Rename(p, p+".moved"))
			must(t, os.Symlink(p+".moved", p))
		}, ""},
		{
			"a closed directory", unix.O_RDONLY,
			func(t *testing.T, p string) { must(t, os.RemoveAll(filepath.Dir(p))) },
			fault.FileGone,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "sub")
			must(t, os.Mkdir(dir, 0o700))
			fd := file(t, dir, "0123456789", c.flags)
			st := saved(t, fd)
			must(t, unix.Close(fd))
			c.change(t, filepath.Join(dir, "file"))
			before := openFDs(t)
			table, err := rebuild(context.Background(), st, dir, "id", RebuildOptions{})
			if c.code == "" {
				must(t, err)
				table.Close()
			} else {
				mustFault(t, err, c.code, filepath.Join(dir, "file"))
			}
			if openFDs(t) != before {
				t.Error("descriptors stay open")
			}
		})
	}
}

func touch(t *testing.T, path string) {
	when := time.Now().Add(time.Hour)
	must(t, os.Chtimes(path, when, when))
}

// A file that the tree reads and itself writes may have changed.
func TestReadAndWrittenByTree(t *testing.T) {
	dir := t.TempDir()
	w := file(t, dir, "0123456789", unix.O_WRONLY)
	r := open(t, filepath.Join(dir, "file"), unix.O_RDONLY)
	st := saved(t, w, r)
	_, err := unix.Write(w, bytes.Repeat([]byte("x"), 20))
	must(t, err)
	_, _ = unix.Close(w), unix.Close(r)
	rebuilt(t, st, keep(t, &model.State{Processes: make([]model.Process, 1)}), dir, RebuildOptions{})
}

// What was appended after the snapshot is cut off, once, at the commit, and kept.
func TestGrownFile(t *testing.T) {
	dir, store := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "file")
	a := file(t, dir, "one\n", unix.O_WRONLY|unix.O_APPEND)
	b := open(t, path, unix.O_WRONLY|unix.O_APPEND)
	st := saved(t, a, b)
	_, err := unix.Write(a, []byte("two\n"))
	must(t, err)
	_, _ = unix.Close(a), unix.Close(b)
	table := rebuilt(t, st, keep(t, &model.State{Processes: make([]model.Process, 1)}), store, RebuildOptions{})
	content := func(path string) string {
		text, err := os.ReadFile(path)
		must(t, err)
		return string(text)
	}
	if got := content(path); got != "one\ntwo\n" {
		t.Errorf("before the commit the file is %q", got)
	}
	notes, err := table.Commit()
	must(t, err)
	if got := content(path); got != "one\n" {
		t.Errorf("after the commit the file is %q", got)
	}
	tails, err := filepath.Glob(filepath.Join(store, TailDir, "*"))
	must(t, err)
	if len(tails) != 1 || content(tails[0]) != "two\n" {
		t.Fatalf("the tail is not in %v", tails)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], path) || !strings.Contains(notes[0], tails[0]) {
		t.Errorf("notes %q", notes)
	}
}

// What is cut off is not written through a link, nor where others can write.
func TestGrownFileForeignTails(t *testing.T) {
	for what, spoil := range map[string]func(store, outside string) error{
		"a link":       func(store, outside string) error { return os.Symlink(outside, filepath.Join(store, TailDir)) },
		"a FIFO":       func(store, _ string) error { return unix.Mkfifo(filepath.Join(store, TailDir), 0o600) },
		"open to all":  func(store, _ string) error { return unix.Chmod(store, 0o777) },
		"another user": func(store, _ string) error { return os.Chown(store, 65534, 65534) },
	} {
		dir, store, outside := t.TempDir(), t.TempDir(), t.TempDir()
		must(t, spoil(store, outside))
		fd := file(t, dir, "one\n", unix.O_WRONLY|unix.O_APPEND)
		st := saved(t, fd)
		_, err := unix.Write(fd, []byte("two\n"))
		must(t, err)
		_ = unix.Close(fd)
		table := rebuilt(t, st, keep(t, &model.State{Processes: make([]model.Process, 1)}), store, RebuildOptions{})
		_, err = table.Commit()
		if !errors.Is(err, &fault.Error{Code: fault.FDTailSave}) {
			t.Errorf("%s: %v", what, err)
		}
		if text, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(text) != "one\ntwo\n" {
			t.Errorf("%s: the file is %q, %v", what, text, err)
		}
		if names, err := os.ReadDir(outside); err != nil || len(names) != 0 {
			t.Errorf("%s: outside there is %v, %v", what, names, err)
		}
	}
}

// If a tail cannot be saved nothing is cut.
func TestGrownFileNoRoom(t *testing.T) {
	dir := t.TempDir()
	fd := file(t, dir, "one\n", unix.O_WRONLY|unix.O_APPEND)
	st := saved(t, fd)
	_, err := unix.Write(fd, []byte("two\n"))
	must(t, err)
	_ = unix.Close(fd)
	table := rebuilt(t, st, keep(t, &model.State{Processes: make([]model.Process, 1)}), "/dev/null/store",
		RebuildOptions{})
	_, err = table.Commit()
	mustFault(t, err, fault.FDTailSave, filepath.Join(dir, "file"))
	if text, _ := os.ReadFile(filepath.Join(dir, "file")); string(text) != "one\ntwo\n" {
		t.Errorf("the file is %q", text)
	}
}

// A Commit that fails half way leaves the files as they were.
func TestGrownFilesRollBack(t *testing.T) {
	store := t.TempDir()
	var st model.State
	var dirs []string
	var fds []int
	for range 2 {
		dir := t.TempDir()
		dirs = append(dirs, filepath.Join(dir, "file"))
		fds = append(fds, file(t, dir, "one\n", unix.O_WRONLY|unix.O_APPEND))
	}
	st = *saved(t, fds...)
	for _, fd := range fds {
		_, err := unix.Write(fd, []byte("two\n"))
		must(t, err)
		_ = unix.Close(fd)
	}
	table := rebuilt(t, &st, keep(t, &model.State{Processes: make([]model.Process, 1)}), store, RebuildOptions{})
	table.terms = []termUse{{fd: -1, term: &model.Terminal{}}}
	table.grown[1].key.ino++ // as if it had been replaced between the checks
	_, err := table.Commit()
	mustFault(t, err, fault.FDTailSave, dirs[1])
	for _, p := range dirs {
		if text, _ := os.ReadFile(p); string(text) != "one\ntwo\n" {
			t.Errorf("%s is %q", p, text)
		}
	}
}

// Hostile or damaged records are faults, not panics.
func TestBadRecords(t *testing.T) {
	records := []model.File{
		{ID: 1, Kind: "unheard of"},
		{ID: 0, Kind: kindChar, Path: "/dev/null", Mode: unix.S_IFCHR, Rdev: unix.Mkdev(1, 3)},
		{ID: 1, Kind: kindPipe, Pipe: 3},
		{ID: 1, Kind: kindPipe, Pipe: -1},
		{ID: 1, Kind: kindFIFO},
		{ID: 1, Kind: kindMemfd, Shmem: 1},
		{ID: 1, Kind: kindRegular, Unlinked: 1},
		{ID: 1, Kind: kindRegular, Unlinked: -1},
		{ID: 1, Kind: kindTTY, Term: -7},
		{ID: 1, Kind: kindSocket},
		{ID: 1, Kind: kindChar, Path: "/dev/kmsg", Mode: unix.S_IFCHR, Rdev: unix.Mkdev(1, 11)},
		{ID: 1, Kind: kindPseudo, Path: "/dev/null", Mode: unix.S_IFCHR},
		{ID: 1, Kind: kindEventFD},
		{ID: 1, Kind: kindTimerFD},
		{ID: 1, Kind: kindEpoll, Of: &model.Epoll{Targets: []model.EpollTarget{{FD: 1, File: 1}}}},
		{ID: 1, Kind: kindTTY, Std: 9},
		{
			ID: 1, Kind: kindChar, Path: "/dev/null", Mode: unix.S_IFCHR, Rdev: unix.Mkdev(1, 3),
			Locks: []model.Lock{{Type: "NEW"}},
		},
	}
	for _, f := range records {
		_, err := rebuild(context.Background(), &model.State{Files: []model.File{f}}, t.TempDir(), "id",
			RebuildOptions{})
		mustFault(t, err, fault.FDRecord)
	}
}
