package restore

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/model"
)

// objects makes what has no name: shared memory and unlinked files.
type objects struct {
	j        *journal
	content  content
	st       *model.State
	shmems   []*os.File       // of State.Shmems, as far as they are made
	unlinked []*os.File       // of State.Unlinked, open for reading only
	temps    map[int]*os.File // by index of those unlinked files: the descriptions that made them and are the image's
}

// shmem makes and fills State.Shmems[i]. They are made in order.
func (o *objects) shmem(i int) error {
	if err := o.j.step("make shared memory"); err != nil {
		return err
	}
	f, err := o.makeShmem(&o.st.Shmems[i])
	if err != nil {
		return fmt.Errorf("make shared memory %d of the image: %w", i+1, err)
	}
	o.shmems = append(o.shmems, f)
	return nil
}

// unlinkedFile makes and fills State.Unlinked[i]. They are made in order.
func (o *objects) unlinkedFile(i int) error {
	if err := o.j.step("make a nameless file"); err != nil {
		return err
	}
	f, err := o.makeUnlinked(i)
	if err != nil {
		return fmt.Errorf("make the deleted file %s again: %w", o.st.Unlinked[i].Path, err)
	}
	o.unlinked = append(o.unlinked, f)
	return nil
}

func (o *objects) makeShmem(s *model.Shmem) (*os.File, error) {
	if s.Kind == "anon" {
		return o.makeSharedAnon(s)
	}
	f, err := fdtable.NewShmem(s)
	if err != nil {
		return nil, err
	}
	o.j.onEnd(func() { f.Close() })
	if err := o.content.fill(f, s.Space, s.Size); err != nil {
		return nil, err
	}
	if err := fdtable.SetAttributes(f, s.Attributes); err != nil {
		return nil, err
	}
	if fdtable.SealLate(s) {
		return f, nil
	}
	return f, fdtable.Seal(f, s)
}

// sealLate seals what had to be mapped first.
func (o *objects) sealLate() error {
	for i := range o.st.Shmems {
		s := &o.st.Shmems[i]
		if !fdtable.SealLate(s) {
			continue
		}
		if err := o.j.step("seal shared memory"); err != nil {
			return err
		}
		if err := fdtable.Seal(o.shmems[i], s); err != nil {
			return err
		}
	}
	return nil
}

// makeSharedAnon makes the object behind MAP_SHARED|MAP_ANONYMOUS mappings: it exists only as a mapping, so we make one
// and open it through map_files (proc_pid_map_files(5)), which needs CAP_CHECKPOINT_RESTORE.
func (o *objects) makeSharedAnon(s *model.Shmem) (*os.File, error) {
	size := (s.Size + pageSize - 1) &^ (pageSize - 1)
	f, err := sharedAnon(int(size))
	if err != nil {
		return nil, err
	}
	o.j.onEnd(func() { f.Close() })
	return f, o.content.fill(f, s.Space, size)
}

// setTimes gives nameless files and memfds their times, when nobody will touch them any more.
func (o *objects) setTimes() error {
	for i := range o.st.Shmems {
		if err := fdtable.SetTimes(o.shmems[i], o.st.Shmems[i].Attributes); err != nil {
			return err
		}
	}
	for i := range o.st.Unlinked {
		if err := fdtable.SetTimes(o.unlinked[i], o.st.Unlinked[i].Attributes); err != nil {
			return err
		}
	}
	return nil
}

// makeUnlinked makes a deleted file again and returns it open for reading only: a file that is open for writing
// cannot be executed. The description that made it is kept where it is one of the image.
func (o *objects) makeUnlinked(i int) (*os.File, error) {
	g := &o.st.Unlinked[i]
	w, err := fdtable.NewUnlinked(g)
	if err != nil {
		return nil, err
	}
	if g.Flags != 0 {
		o.temps[i] = w
		o.j.onEnd(func() { w.Close() })
	} else {
		defer w.Close()
	}
	if err := o.content.fill(w, g.Space, g.Size); err != nil {
		return nil, err
	}
	if err := fdtable.SetAttributes(w, g.Attributes); err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", w.Fd()))
	if err != nil {
		return nil, err
	}
	o.j.onEnd(func() { f.Close() })
	return f, nil
}

// executable calls do while a deleted executable, which may have lost the right to be executed, has it: the kernel
// wants that of what becomes the exe link.
func (o *objects) executable(exe *model.MappedFile, do func() error) error {
	var f *os.File
	var mode uint32
	switch {
	case exe.Unlinked > 0:
		f, mode = o.unlinked[exe.Unlinked-1], o.st.Unlinked[exe.Unlinked-1].Mode&0o7777
	case exe.Shmem > 0:
		f, mode = o.shmems[exe.Shmem-1], o.st.Shmems[exe.Shmem-1].Mode&0o7777
	}
	if f == nil || mode&0o111 != 0 {
		return do()
	}
	fd := int(f.Fd())
	if err := unix.Fchmod(fd, mode|0o100); err != nil {
		return fmt.Errorf("let %s be executed: %w", exe.Path, err)
	}
	err := do()
	return errors.Join(err, unix.Fchmod(fd, mode))
}
