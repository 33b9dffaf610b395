package restore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

// Nameless objects hold what the image has, are as long as they were, and are closed at the end.
func TestObjects(t *testing.T) {
	shared := bytes.Repeat([]byte("shared"), 4*pageSize/6+1)[:4*pageSize]
	gone := append(bytes.Repeat([]byte("gone!"), 1000), make([]byte, 2*pageSize-5000)...)
	st := imagetest.State()
	st.Unlinked[0].Path = filepath.Join(t.TempDir(), "gone")
	st.Files[1].Path = st.Unlinked[0].Path + " (deleted)"
	img := writeImage(t, st, map[model.Space][]byte{imagetest.Shmem: shared, imagetest.Unlinked: gone})
	j := newJournal(t)
	o := &objects{j: j, content: contentOf(t, img), st: img.State(), temps: map[int]*os.File{}}
	before := descriptorsOf(t, os.Getpid())
	if err := o.shmem(0); err != nil {
		t.Fatal(err)
	}
	if err := o.unlinkedFile(0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		f    *os.File
		want []byte
	}{{o.shmems[0], shared}, {o.unlinked[0], gone[:5000]}} {
		have := make([]byte, len(c.want)+1)
		if n, _ := c.f.ReadAt(have, 0); !bytes.Equal(have[:n], c.want) {
			t.Errorf("%s holds %d bytes, %.20q", c.f.Name(), n, have)
		}
	}
	if _, err := o.unlinked[0].WriteAt([]byte("x"), 0); err == nil {
		t.Error("an unlinked file is open for writing: it could not be executed")
	}
	if list, err := os.ReadDir(filepath.Dir(st.Unlinked[0].Path)); err != nil || len(list) > 0 {
		t.Errorf("the unlinked file has a name: %v, %v", list, err)
	}
	j.close()
	if left := leftOver(t, before); len(left) > 0 {
		t.Errorf("descriptors %q are left", left)
	}
}

// Content beyond the end of a file is an error, not a longer file.
func TestContentBeyondTheEnd(t *testing.T) {
	img := writeImage(t, imagetest.State(), map[model.Space][]byte{
		imagetest.Shmem: bytes.Repeat([]byte{1}, 4*pageSize),
	})
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := contentOf(t, img).fill(f, imagetest.Shmem, 0); !errors.Is(err, unix.EFBIG) {
		t.Errorf("into an empty file: %v", err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != 0 {
		t.Errorf("it has %d bytes now, %v", st.Size(), err)
	}
}

// An executable that has lost the right to be executed has it only as long as the kernel looks, whatever comes of that.
func TestExecutableForAMoment(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mode := func() os.FileMode {
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return st.Mode()
	}
	broken := errors.New("broken")
	for _, c := range []struct{ mode, during os.FileMode }{{0o600, 0o700}, {0o610, 0o610}} {
		if err := f.Chmod(c.mode); err != nil {
			t.Fatal(err)
		}
		o := &objects{
			unlinked: []*os.File{f},
			st:       &model.State{Unlinked: []model.UnlinkedFile{{Mode: 0o100000 | uint32(c.mode)}}},
		}
		for _, result := range []error{nil, broken} {
			err := o.executable(&model.MappedFile{Unlinked: 1}, func() error {
				if have := mode(); have != c.during {
					t.Errorf("%v: %v while the kernel looks, want %v", c.mode, have, c.during)
				}
				return result
			})
			if !errors.Is(err, result) || (err == nil) != (result == nil) || mode() != c.mode {
				t.Errorf("%v: %v after it, error %v, want %v", c.mode, mode(), err, result)
			}
		}
	}
	called := false
	err = (&objects{}).executable(&model.MappedFile{Path: "/bin/true"}, func() error { called = true; return nil })
	if err != nil || !called {
		t.Errorf("one that has a name: called %t, %v", called, err)
	}
}
