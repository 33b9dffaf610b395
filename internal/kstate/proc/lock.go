package proc

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// pageSize is that of the kernel's smallest pages.
const pageSize = model.PageSize

// lockFuture finds out whether new mappings are locked (mlockall(2), MCL_FUTURE), which nothing tells: the process maps
// a page for as long as it takes to see whether its locked memory grew.
func (c *collection) lockFuture(in *ptrace.Injector, th *ptrace.Thread, p *model.Process) error {
	dir := procfs.Pid(p.Pid)
	before, err := dir.Status()
	if err != nil {
		return err
	}
	at := hole(c.maps)
	do := ptrace.Syscall{Nr: unix.SYS_MMAP, Args: [6]uint64{
		at, pageSize, unix.PROT_NONE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE | unix.MAP_FIXED_NOREPLACE, ^uint64(0), 0,
	}}
	undo := ptrace.Syscall{Nr: unix.SYS_MUNMAP, Args: [6]uint64{at, pageSize}}
	err = in.Hold(th, do, &undo, func(result int64) error {
		if result == -int64(unix.EAGAIN) { // so it is, but there is no room left to lock
			return errNoRoom
		}
		if result != int64(at) {
			return unix.Errno(-result)
		}
		after, err := dir.Status()
		if err != nil || after.VmLck == before.VmLck {
			return err
		}
		p.MM.LockFuture, err = lockKind(dir, at)
		return err
	})
	var f *fault.Error
	if err == nil || errors.As(err, &f) && f.Class() == fault.Failed {
		return err
	}
	c.block(fault.ProcessState, pidName(p.Pid),
		"whether mappings to come will be locked (mlockall) cannot be found out: %v", err)
	return nil
}

var errNoRoom = errors.New("they will, but no more memory can be locked now")

// hole is the address of a free page with free neighbours, so that no mapping grows by it.
func hole(maps []procfs.Map) uint64 {
	for i := len(maps) - 1; i > 0; i-- {
		if low, high := maps[i-1].End, maps[i].Start; high <= arch.Host.AddressEnd && high-low >= 1024*pageSize {
			return (low + (high-low)/2) &^ (pageSize - 1)
		}
	}
	return lowest
}

const lowest = 1 << 24 // above vm.mmap_min_addr and what can be mapped below by default

// lockKind tells which flags of mlockall(2) made the mapping at addr a locked one.
func lockKind(dir procfs.Dir, addr uint64) (uint32, error) {
	list, err := dir.Smaps()
	if err != nil {
		return 0, err
	}
	for i := range list {
		if list[i].Start == addr && (slices.Contains(list[i].Flags, "lf") || slices.Contains(list[i].Flags, unnamed)) {
			return unix.MCL_FUTURE | unix.MCL_ONFAULT, nil
		}
	}
	return unix.MCL_FUTURE, nil
}
