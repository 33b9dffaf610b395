package restore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// mappedFileOf makes a file and the record of it.
func mappedFileOf(t *testing.T, name, text string) *model.MappedFile {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return &model.MappedFile{
		Path: path, Dev: st.Dev, Ino: st.Ino, Size: st.Size, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano(),
	}
}

// A file is opened once for each way in which it is mapped; what our limit leaves no room for is opened again when it
// is needed, and must be the same then.
func TestMappedFilesBeyondTheLimit(t *testing.T) {
	j := newJournal(t)
	m := newMappedFiles(j, ownView(t), &model.State{}, &objects{}, nil)
	m.room = 1
	stays, again := mappedFileOf(t, "stays", "1"), mappedFileOf(t, "again", "2")
	for range 2 {
		for _, f := range []*model.MappedFile{stays, again} {
			if err := m.open(plan.FileKey{Path: f.Path}, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	if j.steps != 2 || len(m.files) != 2 || m.room != 0 {
		t.Errorf("%d steps, %d files, room for %d", j.steps, len(m.files), m.room)
	}
	one, two := m.files[plan.FileKey{Path: stays.Path}], m.files[plan.FileKey{Path: again.Path}]
	if one.file == nil || two.file != nil {
		t.Fatal("not the first stays open")
	}
	f, done, err := two.take()
	if err != nil {
		t.Fatal(err)
	}
	done()
	if f.Close() == nil {
		t.Error("what was opened again stays open")
	}
	if f, done, err = one.take(); err != nil {
		t.Fatal(err)
	}
	done()
	if _, err := f.Stat(); err != nil {
		t.Errorf("what stays open was closed: %v", err)
	}
	if err := os.Rename(stays.Path, again.Path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := two.take(); !errors.Is(err, &fault.Error{Code: fault.FileChanged}) {
		t.Errorf("another file by that name: %v", err)
	}
	if err := os.Remove(again.Path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := two.take(); !errors.Is(err, &fault.Error{Code: fault.FileGone}) {
		t.Errorf("no file by that name: %v", err)
	}
	j.rollback()
	if one.file != nil {
		t.Error("a file is still open at the end")
	}
}

// A file that has been changed since the plan was made is refused, and not kept open.
func TestMappedFileThatWasChanged(t *testing.T) {
	m := newMappedFiles(newJournal(t), ownView(t), &model.State{}, &objects{}, nil)
	rec := mappedFileOf(t, "lib", "12345")
	if err := os.WriteFile(rec.Path, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := descriptorsOf(t, os.Getpid())
	if err := m.open(plan.FileKey{Path: rec.Path}, rec); !errors.Is(err, &fault.Error{Code: fault.FileChanged}) {
		t.Errorf("shorter: %v", err)
	}
	if err := os.Remove(rec.Path); err != nil {
		t.Fatal(err)
	}
	if err := m.open(plan.FileKey{Path: rec.Path}, rec); !errors.Is(err, &fault.Error{Code: fault.FileGone}) {
		t.Errorf("gone: %v", err)
	}
	if err := unix.Mkfifo(rec.Path, 0o600); err != nil { // nobody writes to it: the open must not wait
		t.Fatal(err)
	}
	if err := m.open(plan.FileKey{Path: rec.Path}, rec); !errors.Is(err, &fault.Error{Code: fault.FileChanged}) {
		t.Errorf("a FIFO: %v", err)
	}
	if left := leftOver(t, before); len(left) > 0 || len(m.files) > 0 {
		t.Errorf("descriptors %q are left, and %d files", left, len(m.files))
	}
}

// What has no name is mapped from our own object, each key as it needs it.
func TestMappedObjects(t *testing.T) {
	file, err := os.OpenFile(mappedFileOf(t, "object", "x").Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	o := &objects{shmems: []*os.File{file}, unlinked: []*os.File{file}}
	j := newJournal(t)
	t.Cleanup(j.rollback)
	m := newMappedFiles(j, ownView(t), &model.State{}, o, nil)
	for _, key := range []plan.FileKey{{Shmem: 1, Write: true}, {Shmem: 1}, {Unlinked: 1}, {Unlinked: 1, Write: true}} {
		if err := m.open(key, &model.MappedFile{Path: "gone"}); err != nil {
			t.Fatalf("%+v: %v", key, err)
		}
		f := m.files[key].file
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
		if err != nil || (flags&unix.O_ACCMODE == unix.O_RDWR) != key.Write {
			t.Errorf("%+v: flags %#o, %v", key, flags, err)
		}
		if f == file {
			t.Errorf("%+v: the end would close the object itself", key)
		}
	}
}
