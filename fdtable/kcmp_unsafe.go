package fdtable

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// kcmpEpollTFD is KCMP_EPOLL_TFD (include/uapi/linux/kcmp.h), Linux 4.13.
const kcmpEpollTFD = 7

// sameEpollTarget asks whether descriptor fd of process pid is the nth description that was added under number num to
// the epoll instance epfd of process epid.
func sameEpollTarget(pid, fd, epid, epfd, num, nth int) (bool, error) {
	slot := struct{ EFD, TFD, Offset uint32 }{uint32(epfd), uint32(num), uint32(nth)}
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(epid), kcmpEpollTFD, uintptr(fd),
		uintptr(unsafe.Pointer(&slot)), 0)
	if errno != 0 {
		return false, errno
	}
	return r == 0, nil
}

// setTicks sets the unread expirations of a timerfd: TFD_IOC_SET_TICKS, _IOW('T', 0, __u64)
// (include/uapi/linux/timerfd.h), with CONFIG_CHECKPOINT_RESTORE.
func setTicks(fd int, ticks uint64) error {
	const request = 0x40085400
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&ticks)))
	if errno != 0 {
		return errno
	}
	return nil
}
