package restore

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/lazy"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// fillLeast is from how many pages of content on a process is worth a userfaultfd, which takes a tenth of a millisecond
// to make.
const fillLeast = 16 << 20 / pageSize

// canBeFilled reports whether pages can come into a mapping through a userfaultfd and be as if the process had written
// them. A mapping that the kernel gives huge pages gets none that way.
func canBeFilled(v *model.VMA) bool {
	return canBeLazy(v) && plan.FirstProt(v)&unix.PROT_WRITE != 0 && !slices.Contains(v.Flags, "hg")
}

// hugeAlways tells whether the kernel gives every mapping huge pages (Documentation/admin-guide/mm/transhuge.rst).
func hugeAlways() bool {
	b, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	return err == nil && strings.Contains(string(b), "[always]")
}

// openFill makes a userfaultfd for the large mappings of the process, all of which are empty: UFFDIO_COPY puts pages
// into them that the kernel need not clear first, in half the time of process_vm_writev(2). Where that cannot be had,
// everything is written. close must be called before anything else touches the mappings.
func (f *filler) openFill(runs []image.Run) error {
	areas, pages := worthIt(f.p.rec, runs, canBeFilled)
	if pages < fillLeast || hugeAlways() {
		return nil
	}
	fd, err := makeUffd(f.p)
	if err != nil {
		var errno unix.Errno
		if errors.As(err, &errno) && (errno == unix.EPERM || errno == unix.ENOSYS) { // not allowed, or not there
			return nil
		}
		return err
	}
	f.fd = fd
	if err := lazy.HandshakePlain(fd); err != nil {
		return nil
	}
	for _, a := range areas {
		if err := lazy.Register(fd, a.Start, a.End); err != nil {
			return nil
		}
		f.areas = append(f.areas, a)
	}
	return nil
}

// close gives the mappings back to the kernel.
func (f *filler) close() {
	if f.fd >= 0 {
		_ = unix.Close(f.fd) // nobody waits for a page of it
	}
	f.fd, f.areas = -1, nil
}

// fills reports whether a mapping is one of those that openFill has registered.
func (f *filler) fills(v *model.VMA) bool {
	_, ok := slices.BinarySearchFunc(f.areas, v.Start,
		func(a model.Range, start uint64) int { return cmp.Compare(a.Start, start) })
	return ok
}

// fill puts data at addr, in a mapping that is registered.
func (f *filler) fill(addr uint64, data []byte) error {
	for len(data) > 0 {
		n, err := lazy.CopyIn(f.fd, addr, data)
		switch {
		case n > 0: // what stopped it before the end, the next attempt tells
		case errors.Is(err, unix.EEXIST): // there is a page: it is safe to write to
			n = pageSize
			if _, err := ptrace.WriteMemory(f.p.pid, []ptrace.Range{{Addr: addr, Len: pageSize}},
				data[:pageSize]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("UFFDIO_COPY: %w", err)
		}
		addr, data = addr+n, data[n:]
	}
	return nil
}

// makeUffd has a process make a userfaultfd of its memory, and takes it from there.
func makeUffd(p *process) (fd int, err error) {
	// Without O_CLOEXEC, which the userfaultfds of forked children would inherit: the orphanage of lazy restores is
	// reached by execve.
	theirs, err := p.call("make a userfaultfd", unix.SYS_USERFAULTFD, unix.O_NONBLOCK)
	if err != nil {
		return -1, err
	}
	fd, err = ptrace.TakeFD(p.pid, int(theirs))
	// it would stay open in what is restored
	if _, cerr := p.call("close the userfaultfd", unix.SYS_CLOSE, uint64(theirs)); cerr != nil {
		if err == nil {
			_ = unix.Close(fd)
		}
		return -1, cerr
	}
	if err != nil {
		return -1, err
	}
	return fd, nil
}
