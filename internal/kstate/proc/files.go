package proc

import (
	"cmp"
	"errors"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// openFile is one descriptor of one process before it is known which others share its description.
type openFile struct {
	process int // index in collection.out.Processes
	index   int // index in its FDs
	pid, fd int
	file    model.File
}

// descriptors reads the descriptors of a process. FD.File and the Files come later, when all processes are known.
func (c *collection) descriptors(dir procfs.Dir, p *model.Process) error {
	list, err := dir.FDs()
	if err != nil {
		return err
	}
	p.FDs = make([]model.FD, 0, len(list))
	for _, fd := range list {
		f, cloexec, err := descriptor(dir, fd)
		if err != nil {
			if c.g == nil && errors.Is(err, unix.ENOENT) {
				continue // closed since it was listed
			}
			return err
		}
		c.open = append(c.open, openFile{process: len(c.out.Processes), index: len(p.FDs), pid: p.Pid, fd: fd, file: f})
		p.FDs = append(p.FDs, model.FD{Num: fd, Cloexec: cloexec})
	}
	return nil
}

func descriptor(dir procfs.Dir, fd int) (f model.File, cloexec bool, err error) {
	name := "fd/" + strconv.Itoa(fd)
	if f.Path, err = dir.Link(name); err != nil {
		return f, false, err
	}
	st, err := dir.Stat2(name)
	if err != nil {
		return f, false, err
	}
	f.Mode, f.Dev, f.Ino, f.Rdev = st.Mode, st.Dev, st.Ino, st.Rdev
	info, err := dir.FDInfo(fd)
	if err != nil {
		var unknown *fault.Error
		if !errors.As(err, &unknown) || unknown.Code != fault.FDInfoKey {
			return f, false, err
		}
		// What kinds of file there are is package fdtable's business: it reads the same lines and refuses them by name.
	}
	f.Pos, f.Flags = info.Pos, info.Flags&^unix.O_CLOEXEC
	f.Unlocked = err == nil && len(info.Locks) == 0
	return f, info.Flags&unix.O_CLOEXEC != 0, nil
}

// files finds out which descriptors share an open file description, and lists each description once, in the order in
// which processes and descriptors lead to it.
func (c *collection) files() error {
	order := make([]int, len(c.open)) // indexes into c.open, equal descriptions next to each other
	for i := range order {
		order[i] = i
	}
	var failed error
	slices.SortFunc(order, func(a, b int) int {
		x, y := &c.open[a], &c.open[b]
		// Only descriptions of one inode can be the same one, so kcmp is asked of few.
		if n := cmp.Or(cmp.Compare(x.file.Ino, y.file.Ino), cmp.Compare(x.file.Dev, y.file.Dev),
			cmp.Compare(x.file.Mode, y.file.Mode)); n != 0 {
			return n
		}
		n, err := kcmpFile(x.pid, x.fd, y.pid, y.fd)
		if err != nil && failed == nil {
			failed = fault.New(fault.ProcRead, "fd "+strconv.Itoa(x.fd)+" of "+pidName(x.pid), "kcmp: %w", err)
		}
		return cmp.Or(n, a-b)
	})
	if failed != nil && c.g != nil {
		return failed
	}
	first := make([]int, len(c.open)) // the lowest index of the same description
	for i, at := range order {
		first[at] = at
		if i > 0 && c.same(order[i-1], at) {
			first[at] = first[order[i-1]] // of equal ones the lower index comes first
		}
	}
	ids := make([]int, len(c.open))
	for i := range c.open {
		o := &c.open[i]
		if first[i] == i {
			o.file.ID = len(c.out.Files) + 1
			c.out.Files = append(c.out.Files, o.file)
			ids[i] = o.file.ID
		}
		c.out.Processes[o.process].FDs[o.index].File = ids[first[i]]
	}
	return nil
}

func (c *collection) same(a, b int) bool {
	x, y := &c.open[a], &c.open[b]
	if x.file.Ino != y.file.Ino || x.file.Dev != y.file.Dev || x.file.Mode != y.file.Mode {
		return false
	}
	n, err := kcmpFile(x.pid, x.fd, y.pid, y.fd)
	return err == nil && n == 0
}

const kcmpTypeFile = 0 // KCMP_FILE, include/uapi/linux/kcmp.h

// kcmpFile compares two open file descriptions in the kernel's own order (kcmp(2)): 0 if it is the same one, else -1 or
// 1.
func kcmpFile(pid1, fd1, pid2, fd2 int) (int, error) {
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid1), uintptr(pid2), kcmpTypeFile, uintptr(fd1), uintptr(fd2),
		0)
	switch {
	case errno != 0:
		return 1, errno
	case r == 0:
		return 0, nil
	case r == 1:
		return -1, nil
	}
	return 1, nil
}
