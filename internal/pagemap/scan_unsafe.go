package pagemap

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// scanArg is struct pm_scan_arg (include/uapi/linux/fs.h, Linux 6.7). Region has the layout of struct page_region.
type scanArg struct {
	size      uint64
	flags     uint64
	start     uint64
	end       uint64
	walkEnd   uint64
	vec       unsafe.Pointer
	vecLen    uint64
	maxPages  uint64
	invert    Category
	mask      Category
	anyOf     Category
	returnSet Category
}

// ioctlScan is PAGEMAP_SCAN: _IOWR('f', 16, struct pm_scan_arg).
const ioctlScan = 3<<30 | 96<<16 | 'f'<<8 | 16

// scanWPMatching is PM_SCAN_WP_MATCHING: write-protect what is reported.
const scanWPMatching = 1

// scan fills vec with the first regions of [start, end) that q selects and returns their number and the address up to
// which it looked.
func scan(fd int, start, end uint64, q Query, flags uint64, vec []Region) (n int, walked uint64, err error) {
	arg := scanArg{
		size: uint64(unsafe.Sizeof(scanArg{})), flags: flags, start: start, end: end,
		vec: unsafe.Pointer(unsafe.SliceData(vec)), vecLen: uint64(len(vec)),
		invert: q.Invert, mask: q.All, anyOf: q.Any, returnSet: q.Return,
	}
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlScan, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return 0, 0, errno
	}
	return int(r), arg.walkEnd, nil
}
