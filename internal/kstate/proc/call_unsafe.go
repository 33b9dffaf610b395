package proc

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// robustList is get_robust_list(2) of another thread: it needs ptrace read access to it.
func robustList(tid int) (head, size uint64, err error) {
	_, _, errno := unix.Syscall(unix.SYS_GET_ROBUST_LIST, uintptr(tid), uintptr(unsafe.Pointer(&head)),
		uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return 0, 0, errno
	}
	return head, size, nil
}

func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

const mlockOnFault = 1 // MLOCK_ONFAULT, include/uapi/asm-generic/mman-common.h

func lockOnFault(b []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MLOCK2, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		mlockOnFault)
	if errno != 0 {
		return errno
	}
	return nil
}
