package restore

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/model"
)

// shmem makes and fills a shared memory object.
func (r *restorer) shmem(i int) error {
	if err := r.j.step("make shared memory"); err != nil {
		return err
	}
	f, err := r.makeShmem(&r.st.Shmems[i])
	if err != nil {
		return fmt.Errorf("make shared memory %d of the image: %w", i+1, err)
	}
	r.shmems = append(r.shmems, f)
	return nil
}

// ghost makes and fills an unlinked file.
func (r *restorer) ghost(i int) error {
	if err := r.j.step("make a nameless file"); err != nil {
		return err
	}
	f, err := r.makeGhost(i)
	if err != nil {
		return fmt.Errorf("make the deleted file %s again: %w", r.st.Ghosts[i].Path, err)
	}
	r.ghosts = append(r.ghosts, f)
	return nil
}

func (r *restorer) makeShmem(s *model.Shmem) (*os.File, error) {
	if s.Kind == "anon" {
		return r.makeSharedAnon(s)
	}
	f, err := fdtable.NewShmem(s)
	if err != nil {
		return nil, err
	}
	r.j.onEnd(func() { f.Close() })
	if err := r.fillFile(f, s.Space, s.Size); err != nil {
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
func (r *restorer) sealLate() error {
	for i := range r.st.Shmems {
		s := &r.st.Shmems[i]
		if !fdtable.SealLate(s) {
			continue
		}
		if err := r.j.step("seal shared memory"); err != nil {
			return err
		}
		if err := fdtable.Seal(r.shmems[i], s); err != nil {
			return err
		}
	}
	return nil
}

// makeSharedAnon makes the object behind MAP_SHARED|MAP_ANONYMOUS mappings: it exists only as a mapping, so we make one
// and open it through map_files (proc_pid_map_files(5)), which needs CAP_CHECKPOINT_RESTORE.
func (r *restorer) makeSharedAnon(s *model.Shmem) (*os.File, error) {
	size := (s.Size + pageSize - 1) &^ (pageSize - 1)
	f, err := sharedAnon(int(size))
	if err != nil {
		return nil, err
	}
	r.j.onEnd(func() { f.Close() })
	return f, r.fillFile(f, s.Space, size)
}

// fillFile writes the content of a space to a file. What the image does not hold stays a hole.
func (r *restorer) fillFile(f *os.File, space model.Space, size int64) error {
	return r.img.Load(r.ctx, space, workers(), func(off uint64, data []byte) error {
		if int64(off) >= size {
			return fmt.Errorf("content at %d of %d bytes: %w", off, size, unix.EFBIG)
		}
		inside := data[:min(int64(len(data)), size-int64(off))]
		if _, err := f.WriteAt(inside, int64(off)); err != nil {
			return err
		}
		if rest := data[len(inside):]; len(bytes.Trim(rest, "\x00")) > 0 {
			return fdtable.WriteBeyond(f, size, rest[:min(len(rest), int(pageSize-size%pageSize))])
		}
		return nil
	})
}

// setTimes gives nameless files and memfds their times, when nobody will touch them any more.
func (r *restorer) setTimes() error {
	for i := range r.st.Shmems {
		if err := fdtable.SetTimes(r.shmems[i], r.st.Shmems[i].Attributes); err != nil {
			return err
		}
	}
	for i := range r.st.Ghosts {
		if err := fdtable.SetTimes(r.ghosts[i], r.st.Ghosts[i].Attributes); err != nil {
			return err
		}
	}
	return nil
}

// makeGhost makes a deleted file again and returns it open for reading only: a file that is open for writing cannot be
// executed. The description that made it is kept where it is one of the image.
func (r *restorer) makeGhost(i int) (*os.File, error) {
	g := &r.st.Ghosts[i]
	w, err := fdtable.NewGhost(g)
	if err != nil {
		return nil, err
	}
	if g.Flags != 0 {
		r.temps[i] = w
		r.j.onEnd(func() { w.Close() })
	} else {
		defer w.Close()
	}
	if err := r.fillFile(w, g.Space, g.Size); err != nil {
		return nil, err
	}
	if err := fdtable.SetAttributes(w, g.Attributes); err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", w.Fd()))
	if err != nil {
		return nil, err
	}
	r.j.onEnd(func() { f.Close() })
	return f, nil
}
