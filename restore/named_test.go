package restore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

// namedSpace is the space of the named memory of the tests.
const namedSpace = model.Space(4)

// newNamed returns the named memory of an image that has one such file, path, and a mapping of it. The content is two
// pages.
func newNamed(t *testing.T, path string) (*namedFiles, *model.State, []byte) {
	t.Helper()
	st := imagetest.State()
	content := append(bytes.Repeat([]byte("image"), 1000), make([]byte, 2*pageSize-5000)...)
	st.Named = []model.UnlinkedFile{{
		Space: namedSpace, Path: path, Dev: 1, Ino: 99, Size: int64(len(content)), Mode: 0o100640,
	}}
	st.Processes[0].VMAs[0].File = model.MappedFile{Path: path, Dev: 1, Ino: 99, Size: int64(len(content))}
	img := writeImage(t, st, map[model.Space][]byte{namedSpace: content})
	j := newJournal(t)
	working := workingState(img.State())
	return &namedFiles{j: j, content: contentOf(t, img), st: working}, img.State(), content
}

func fileIs(t *testing.T, path string, want []byte) {
	t.Helper()
	if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, want) {
		t.Errorf("%s holds %d bytes, %.20q, %v; want %d, %.20q", path, len(have), have, err, len(want), want)
	}
}

// Named memory that is gone is made, and goes again if the restore fails.
func TestNamedMemoryIsMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory")
	m, original, content := newNamed(t, path)
	if err := m.open(); err != nil {
		t.Fatal(err)
	}
	fileIs(t, path, content)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode() != 0o640 {
		t.Errorf("its mode is %v", st.Mode())
	}
	have := m.st.Processes[0].VMAs[0].File
	if ino := st.Sys().(*unixStat).Ino; have.Ino != ino || have.Path != path {
		t.Errorf("its mapping leads to %+v, want inode %d", have, ino)
	}
	if original.Processes[0].VMAs[0].File.Ino != 99 {
		t.Error("the state of the image was changed")
	}
	if err := m.commit(); err != nil {
		t.Fatal(err)
	}
	m.j.rollback()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the rollback: %v", err)
	}
}

// Named memory that has another content gets that of the image at the very end, and not if the restore fails before.
// What it held is kept.
func TestNamedMemoryIsPutBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory")
	m, _, content := newNamed(t, path)
	now := []byte("shorter, and newer")
	if err := os.WriteFile(path, now, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.open(); err != nil {
		t.Fatal(err)
	}
	fileIs(t, path, append(bytes.Clone(now), make([]byte, len(content)-len(now))...))
	m.j.rollback()
	fileIs(t, path, now)

	m.j, m.list = newJournal(t), nil
	m.st = workingState(m.content.img.State())
	if err := m.open(); err != nil {
		t.Fatal(err)
	}
	if err := m.commit(); err != nil {
		t.Fatal(err)
	}
	fileIs(t, path, content)
	kept, err := filepath.Glob(filepath.Join(m.content.img.Info().Dir, fdtable.TailDir, "*"))
	if err != nil || len(kept) != 1 || len(m.j.notes) != 1 {
		t.Fatal(kept, m.j.notes, err)
	}
	if b, err := os.ReadFile(kept[0]); err != nil || !bytes.HasPrefix(b, now) {
		t.Errorf("what it held is %q, %v", b, err)
	}
	m.j.rollback()
	if b, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(b, now) {
		t.Errorf("after a failure behind the commit it holds %.20q, %v", b, err)
	}
}

// Memory that has the content of the image already may be anybody's; changing it is refused while somebody maps it.
func TestNamedMemoryOfOthersIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory")
	m, _, content := newNamed(t, path)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, len(content), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	if err := m.open(); err != nil {
		t.Errorf("with the content of the image: %v", err)
	}
	if m.list[0].want != nil {
		t.Error("the same content is to be put back")
	}
	m.j.rollback()
}

// What is no regular file any more is not opened as memory, and what has no directory is not made.
func TestNamedMemoryThatCannotBeOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory")
	m, _, _ := newNamed(t, path)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.open(); !errors.Is(err, &fault.Error{Code: fault.FileChanged}) {
		t.Errorf("a FIFO: %v", err)
	}
	m.j.rollback()
	m.st.Named[0].Path = filepath.Join(t.TempDir(), "gone", "memory")
	if err := m.open(); !errors.Is(err, &fault.Error{Code: fault.FileGone}) {
		t.Errorf("without its directory: %v", err)
	}
	m.j.rollback()
}

// replaceContent leaves holes where the other file has them.
func TestReplaceContentKeepsHoles(t *testing.T) {
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	src, dst := open("src"), open("dst")
	if unix.Fallocate(int(dst.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, pageSize) != nil {
		t.Skip("the file system of the tests has no holes")
	}
	const size, at = 4 << 20, 3 << 20
	if _, err := src.WriteAt([]byte("far"), at); err != nil {
		t.Fatal(err)
	}
	if err := src.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := dst.Write(bytes.Repeat([]byte("old"), 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := replaceContent(dst, src); err != nil {
		t.Fatal(err)
	}
	if same, err := equal(src, dst); err != nil || !same {
		t.Errorf("they differ: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dst.Fd()), &st); err != nil || st.Blocks*512 > size/2 {
		t.Errorf("%d blocks, %v", st.Blocks, err)
	}
	if err := dst.Truncate(size + 1); err != nil {
		t.Fatal(err)
	}
	if same, err := equal(src, dst); err != nil || same {
		t.Errorf("a byte more is the same: %v", err)
	}
}
