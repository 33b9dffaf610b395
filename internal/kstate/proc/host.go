package proc

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/view"
)

// host is what of this machine decides how to ask, and how to read the answers.
type host struct {
	view        *view.View
	shmDev      uint64  // st_dev of the mount behind memfds and shared anonymous memory
	slice       uint64  // sched_runtime that a thread of a fair policy has when nobody asked for one (Linux 6.12), ns
	newFutex    bool    // the kernel's futex flags have their places of Linux 6.7 and later
	membarriers bool    // membarrier(2) tells what is registered (Linux 6.3)
	spec        [3]bool // speculation controls that a thread can set (PR_SPEC_*)
}

func readHost() (*host, error) {
	h := &host{}
	var err error
	if h.view, err = view.Own(); err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("probe", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fault.New(fault.NoSource, "memfd_create", "%w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fault.New(fault.NoSource, "fstat of a memfd", "%w", err)
	}
	h.shmDev = st.Dev
	if _, err := kcmpFile(os.Getpid(), fd, os.Getpid(), fd); errors.Is(err, unix.ENOSYS) {
		return nil, fault.New(fault.NoSource, "kcmp", "this kernel is built without kcmp(2) (CONFIG_KCMP)")
	}
	if attr, err := unix.SchedGetAttr(0, 0); err == nil {
		h.slice = attr.Runtime
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fault.New(fault.NoSource, "uname", "%w", err)
	}
	h.newFutex = atLeast(unix.ByteSliceToString(uts.Release[:]), 6, 7)
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGetRegistrations, 0, 0)
	h.membarriers = errno == 0
	for which := range h.spec {
		v, err := unix.PrctlRetInt(unix.PR_GET_SPECULATION_CTRL, uintptr(which), 0, 0, 0)
		h.spec[which] = err == nil && v&unix.PR_SPEC_PRCTL != 0
	}
	return h, nil
}

// atLeast compares a kernel release. Only for what no probing can tell: the meaning of a kernel-internal number.
func atLeast(release string, major, minor int) bool {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, errA := strconv.Atoi(parts[0])
	b, errB := strconv.Atoi(strings.TrimRight(parts[1], "-abcdefghijklmnopqrstuvwxyz+"))
	return errA == nil && errB == nil && (a > major || a == major && b >= minor)
}

// onFaultUnnamed reports that smaps of this kernel has no name for the flag that mlock2(MLOCK_ONFAULT) sets, as Linux
// 6.1. It asks by locking a page of ours. The other flags without a name there are set by drivers, never on memory that
// can be locked.
func (h *host) onFaultUnnamed() bool {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Munmap(page) }()
	if lockOnFault(page) != nil {
		return false
	}
	list, err := h.view.Mine().Smaps()
	if err != nil {
		return false
	}
	for i := range list {
		if list[i].Start <= address(page) && address(page) < list[i].End {
			return slices.Contains(list[i].Flags, unnamed)
		}
	}
	return false
}
