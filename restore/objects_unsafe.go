package restore

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sharedAnon returns a new shared anonymous object of size bytes, as a file.
func sharedAnon(size int) (*os.File, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes shared: %w", size, err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	at := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))
	// A neighbour of the same kind would have been another object: the kernel never merges these.
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/map_files/%x-%x", at, at+uint64(size)), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open a shared mapping: %w", err)
	}
	return f, nil
}

// subreaper returns whether this process is a subreaper (PR_GET_CHILD_SUBREAPER), 1 or 0.
func subreaper() uintptr {
	var is int32
	if _, _, errno := unix.Syscall(unix.SYS_PRCTL, unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&is)),
		0); errno != 0 {
		return 0
	}
	return uintptr(is)
}
