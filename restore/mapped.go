package restore

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/internal/buildid"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/host"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// mappedFiles is every file that processes map or execute. They are all looked at before anything is made; as many as
// our limit of descriptors allows stay open, the others are opened again when a process needs them, and must then be
// the same.
type mappedFiles struct {
	j        *journal
	view     *view.View
	st       *model.State
	objects  *objects
	handover *handover

	files map[plan.FileKey]*mappedFile
	room  int // how many more may stay open
}

// mappedFile is one of them.
type mappedFile struct {
	path string
	mode int
	made *os.File // of an object that we made: what it is mapped from, nil if that is opened by path
	file *os.File // nil if it is not open
	id   inode
}

type inode struct{ dev, ino uint64 }

func exeKey(rec *model.Process) plan.FileKey {
	switch {
	case rec.Exe.Unlinked > 0:
		return plan.FileKey{Unlinked: rec.Exe.Unlinked}
	case rec.Exe.Shmem > 0:
		return plan.FileKey{Shmem: rec.Exe.Shmem}
	}
	return plan.FileKey{Path: rec.Exe.Path}
}

// newMappedFiles leaves three quarters of the descriptors that this process may have to what the image has open.
func newMappedFiles(j *journal, v *view.View, st *model.State, o *objects, h *handover) *mappedFiles {
	m := &mappedFiles{j: j, view: v, st: st, objects: o, handover: h, files: map[plan.FileKey]*mappedFile{}}
	j.onEnd(m.close)
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err == nil {
		m.room = int(min(lim.Cur/4, 1<<20)) // fs.nr_open bounds it
	}
	return m
}

// close closes all that are open.
func (m *mappedFiles) close() {
	for _, f := range m.files {
		if f.file != nil {
			_ = f.file.Close()
			f.file = nil
		}
	}
}

// openOf opens a mapped file of a process, or its executable if index is -1.
func (m *mappedFiles) openOf(rec *model.Process, index int) error {
	if index < 0 {
		return m.open(exeKey(rec), &rec.Exe)
	}
	if key, ok := plan.KeyOf(m.st, &rec.VMAs[index]); ok {
		return m.open(key, &rec.VMAs[index].File)
	}
	return nil
}

// open opens one file, once, and holds it against what the image says of it. What has no name is opened anew
// through /proc/self/fd, so that each mapping has it open as it needs.
func (m *mappedFiles) open(key plan.FileKey, want *model.MappedFile) error {
	if m.files[key] != nil {
		return nil
	}
	if err := m.j.step("open " + want.Path); err != nil {
		return err
	}
	f := &mappedFile{path: key.Path, mode: os.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY} // it may be a FIFO now
	if key.Write {
		f.mode |= os.O_RDWR
	}
	switch {
	case key.Shmem > 0 && key.Write:
		f.made = m.objects.shmems[key.Shmem-1]
		f.path = f.made.Name()
	case key.Shmem > 0:
		f.path = fmt.Sprintf("/proc/self/fd/%d", m.objects.shmems[key.Shmem-1].Fd())
	case key.Unlinked > 0:
		f.path = fmt.Sprintf("/proc/self/fd/%d", m.objects.unlinked[key.Unlinked-1].Fd())
	case key.Write: // the tree changes it all the time: it is known by what it is, not by what is in it
		now, err := fdtable.KnownMapped(want).Find(m.view)
		if err != nil {
			return err
		}
		f.path = now.Path
	}
	file, id, err := f.open()
	if err != nil {
		return err
	}
	if key.Path != "" {
		if err := checkSame(file, want, key.Write); err != nil {
			_ = file.Close()
			return err
		}
	}
	f.id = id
	m.files[key] = f
	if m.room == 0 {
		return file.Close()
	}
	m.room--
	f.file = file
	return nil
}

// checkSame refuses a file that is not, or no longer, the one that the plan was made for: it may have been replaced
// meanwhile.
func checkSame(f *os.File, want *model.MappedFile, changing bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fault.New(fault.RestoreStep, want.Path, "%w", err)
	}
	have := host.File(&st)
	if want.BuildID != "" && have.MTime != want.MTime {
		have.BuildID = buildid.Of(f)
	}
	if err := plan.CheckMapped(want, have, changing); err != nil {
		return err
	}
	return nil
}

// open opens the file, whatever it is now.
func (m *mappedFile) open() (*os.File, inode, error) {
	f, err := m.openFile()
	if errors.Is(err, os.ErrNotExist) {
		return nil, inode{}, fault.New(fault.FileGone, m.path, "%w", err)
	}
	var st unix.Stat_t
	if err == nil {
		if err = unix.Fstat(int(f.Fd()), &st); err != nil {
			_ = f.Close()
		}
	}
	if err != nil {
		return nil, inode{}, fault.New(fault.RestoreStep, m.path, "%w", err)
	}
	return f, inode{st.Dev, st.Ino}, nil
}

// openFile opens the file by its name. An object that we made is mapped from the description that made it: one that is
// opened through /proc/self/fd counts as a writer for as long as it is mapped, and what somebody writes to cannot be
// executed (execve(2), ETXTBSY).
func (m *mappedFile) openFile() (*os.File, error) {
	if m.made == nil {
		return os.OpenFile(m.path, m.mode, 0)
	}
	fd, err := unix.FcntlInt(m.made.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), m.path), nil
}

// take returns the file, open; the caller calls done when a process has it.
func (m *mappedFile) take() (f *os.File, done func(), err error) {
	if m.file != nil {
		return m.file, func() {}, nil
	}
	f, id, err := m.open()
	if err != nil {
		return nil, nil, err
	}
	if id != m.id {
		_ = f.Close()
		return nil, nil, fault.New(fault.FileChanged, m.path, "it was replaced while it was being restored")
	}
	return f, func() { _ = f.Close() }, nil
}

// give hands files over to a process; no more than fit into one message.
func (m *mappedFiles) give(p *process, keys []plan.FileKey) error {
	fds := make([]int, len(keys))
	for i, key := range keys {
		open := m.files[key]
		if open == nil {
			return fault.New(fault.RestoreState, p.object(), "mapped file %d of the process was not opened", i)
		}
		f, done, err := open.take()
		if err != nil {
			return err
		}
		defer done()
		fds[i] = int(f.Fd())
	}
	return m.handover.send(p, fds)
}
