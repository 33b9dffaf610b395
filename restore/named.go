package restore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/holders"
	"github.com/bpfckpt/bpfckpt/model"
)

// namedMemory is a file of State.Named: it is opened by its name as any other, but what is in it is that of the image.
type namedMemory struct {
	rec  *model.UnlinkedFile
	file *os.File
	want *os.File // the content it is to have; nil if it has it
}

// namedFiles is State.Named.
type namedFiles struct {
	j       *journal
	content content
	st      *model.State // of workingState
	list    []*namedMemory
}

// workingState is the state that a restore works on: that of the image, but for what leads to named memory, of which
// namedFiles.open will know what it is now. Those records are copies.
func workingState(st *model.State) *model.State {
	if len(st.Named) == 0 {
		return st
	}
	own := *st
	own.Processes = slices.Clone(st.Processes)
	for i := range own.Processes {
		own.Processes[i].VMAs = slices.Clone(own.Processes[i].VMAs)
	}
	own.Files = slices.Clone(st.Files)
	return &own
}

// open makes named memory that is not there any more, whole, and gets ready to put back the content of what is: commit
// does. Whoever looks at the state afterwards finds there what the files are now.
func (m *namedFiles) open() error {
	if len(m.st.Named) == 0 {
		return nil
	}
	was := map[inode]*namedMemory{}
	for i := range m.st.Named {
		g := &m.st.Named[i]
		if err := m.j.step("open " + g.Path); err != nil {
			return err
		}
		n := &namedMemory{rec: g}
		err := m.openExisting(n)
		if errors.Is(err, os.ErrNotExist) {
			err = m.create(n)
		}
		if err != nil {
			return err
		}
		m.list = append(m.list, n)
		was[inode{g.Dev, g.Ino}] = n
	}
	return m.adopt(was)
}

// openExisting opens a file that is there. It is made as long as it has to be, which harms nobody; its content comes
// last of all.
func (m *namedFiles) openExisting(n *namedMemory) error {
	f, err := os.OpenFile(n.rec.Path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err != nil {
		return fault.New(fault.RestoreStep, n.rec.Path, "%w", err)
	}
	m.j.onEnd(func() { f.Close() })
	n.file = f
	st, err := f.Stat()
	if err != nil {
		return fault.New(fault.RestoreStep, n.rec.Path, "%w", err)
	}
	if !st.Mode().IsRegular() {
		return fault.New(fault.FileChanged, n.rec.Path, "it is no longer a regular file")
	}
	if n.want, err = m.contentOf(n.rec); err != nil {
		return err
	}
	same, err := equal(f, n.want)
	if err != nil {
		return fmt.Errorf("compare %s: %w", n.rec.Path, err)
	}
	if same {
		n.want = nil
		return nil
	}
	if err := m.nobodyElse(n); err != nil {
		return err
	}
	if size := st.Size(); size < n.rec.Size {
		m.j.onUndo(func() { _ = f.Truncate(size) })
		if err := f.Truncate(n.rec.Size); err != nil {
			return fault.New(fault.RestoreStep, n.rec.Path, "make it as long as it was: %w", err)
		}
	}
	return nil
}

// nobodyElse refuses to change memory that a process has which is none of the image: it may be the program itself, or
// another that has taken the name.
func (m *namedFiles) nobodyElse(n *namedMemory) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(n.file.Fd()), &st); err != nil {
		return fault.New(fault.RestoreStep, n.rec.Path, "%w", err)
	}
	file := model.Object{ID: model.Inode(st.Dev, st.Ino), Links: []string{n.rec.Path}, Mapped: true}
	found, err := holders.Of(nil, nil).Holders(m.j.ctx, []model.Object{file})
	if err != nil {
		return err
	}
	if by := found[file.ID]; len(by) > 0 {
		return fault.New(fault.FileChanged, n.rec.Path,
			"it is memory that was changed since the snapshot, and %s has it now", by[0].Text()).
			WithRemedy("end that process, or remove the file")
	}
	return nil
}

// create makes a file that is gone, as after a reboot. It goes again if the restore fails.
func (m *namedFiles) create(n *namedMemory) error {
	g := n.rec
	f, err := os.OpenFile(g.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fault.New(fault.FileGone, g.Path, "it is memory, and cannot be made again: %w", err).
			WithRemedy("make its directory again")
	}
	m.j.onEnd(func() { f.Close() })
	m.j.onUndo(func() { _ = os.Remove(g.Path) })
	n.file = f
	if err := unix.Fchown(int(f.Fd()), int(g.UID), int(g.GID)); err != nil {
		return fault.New(fault.RestoreStep, g.Path, "set its owner: %w", err)
	}
	if err := unix.Fchmod(int(f.Fd()), g.Mode&0o7777); err != nil {
		return fault.New(fault.RestoreStep, g.Path, "set its mode: %w", err)
	}
	if err := f.Truncate(g.Size); err != nil {
		return fault.New(fault.RestoreStep, g.Path, "set its size: %w", err)
	}
	return m.content.fill(f, g.Space, g.Size)
}

// contentOf returns a file of ours with the content that named memory is to have.
func (m *namedFiles) contentOf(g *model.UnlinkedFile) (*os.File, error) {
	fd, err := unix.MemfdCreate("content", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file for the content of %s: %w", g.Path, err)
	}
	f := os.NewFile(uintptr(fd), g.Path)
	m.j.onEnd(func() { f.Close() })
	if err := f.Truncate(g.Size); err != nil {
		return nil, fmt.Errorf("make room for the content of %s: %w", g.Path, err)
	}
	return f, m.content.fill(f, g.Space, g.Size)
}

// compareBytes is how much of two files is compared at once.
const compareBytes = 256 << 10

// equal compares two files.
func equal(a, b *os.File) (bool, error) {
	bufA, bufB := make([]byte, compareBytes), make([]byte, compareBytes)
	for at := int64(0); ; at += compareBytes {
		n, errA := a.ReadAt(bufA, at)
		k, errB := b.ReadAt(bufB, at)
		if n != k || !bytes.Equal(bufA[:n], bufB[:k]) {
			return false, nil
		}
		if errors.Is(errA, io.EOF) && errors.Is(errB, io.EOF) {
			return true, nil
		}
		if err := errors.Join(errA, errB); err != nil {
			return false, err
		}
	}
}

// adopt makes everything in the state that led to named memory lead to what it is now.
func (m *namedFiles) adopt(was map[inode]*namedMemory) error {
	now := map[inode]model.MappedFile{}
	for key, n := range was {
		var st unix.Stat_t
		if err := unix.Fstat(int(n.file.Fd()), &st); err != nil {
			return fault.New(fault.RestoreStep, n.rec.Path, "%w", err)
		}
		now[key] = model.MappedFile{
			Path: n.rec.Path, Dev: st.Dev, Ino: st.Ino, Size: st.Size, MTime: st.Mtim.Nano(),
			CTime: st.Ctim.Nano(),
		}
	}
	for i := range m.st.Processes {
		for j := range m.st.Processes[i].VMAs {
			v := &m.st.Processes[i].VMAs[j]
			if to, ok := now[inode{v.File.Dev, v.File.Ino}]; ok && v.Kind == model.VMAFile && v.File.Unlinked == 0 {
				v.File = to
			}
		}
	}
	for i := range m.st.Files {
		f := &m.st.Files[i]
		if to, ok := now[inode{f.Dev, f.Ino}]; ok && f.Unlinked == 0 && f.Shmem == 0 {
			f.Path, f.Dev, f.Ino, f.Size, f.MTime, f.CTime, f.Born = to.Path, to.Dev, to.Ino, to.Size, to.MTime,
				to.CTime, 0
		}
	}
	return nil
}

// commit puts back the content of the named memory that has another one now, which is kept beside the image.
func (m *namedFiles) commit() error {
	for _, n := range m.list {
		if n.want == nil {
			continue
		}
		if err := m.j.step("put back " + n.rec.Path); err != nil {
			return err
		}
		saved, err := m.save(n)
		if err != nil {
			return fault.New(fault.FDTailSave, n.rec.Path, "save what it holds now: %w", err)
		}
		m.j.onUndo(func() {
			dir := m.content.img.Info().Dir
			if old, err := beneath.OpenBelow(dir, fdtable.TailDir, filepath.Base(saved)); err == nil {
				_ = replaceContent(n.file, old)
				_ = old.Close()
			}
		})
		if err := replaceContent(n.file, n.want); err != nil {
			return fault.New(fault.RestoreStep, n.rec.Path, "put its content back: %w", err)
		}
		m.j.note("%s, memory that is mapped shared and writable, was changed after the snapshot: "+
			"it is as it was then again; what it held is in %s",
			n.rec.Path, saved)
	}
	return nil
}

// save copies what named memory holds to a new file beside the image.
func (m *namedFiles) save(n *namedMemory) (string, error) {
	info := m.content.img.Info()
	f, err := fdtable.KeepAside(info.Dir, info.ID, n.rec.Path, func(dst *os.File) error {
		return replaceContent(dst, n.file)
	})
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// replaceContent makes a file what another is. Private pages that processes have of it stay theirs: only what lies
// beyond the end goes.
func replaceContent(dst, src *os.File) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	if st.Size() == 0 {
		return nil
	}
	if unix.Fallocate(int(dst.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, st.Size()) != nil {
		_, err := io.Copy(io.NewOffsetWriter(dst, 0), io.NewSectionReader(src, 0, st.Size())) // no holes here
		return err
	}
	for at := int64(0); at < st.Size(); {
		data, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole follows
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, data), io.NewSectionReader(src, data, hole-data)); err != nil {
			return err
		}
		at = hole
	}
	return nil
}
