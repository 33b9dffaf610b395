package dirty

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/userfaultfd.h, for machines whose ioctl numbers have the generic layout.
const (
	// UFFD_USER_MODE_ONLY (Linux 5.11): needs no right, and asynchronous protection needs no more
	uffdUserModeOnly    = 1
	uffdAPIVersion      = 0xaa
	uffdioAPI           = 0xc018aa3f // _IOWR(UFFDIO, 0x3f, struct uffdio_api)
	uffdioRegister      = 0xc020aa00 // _IOWR(UFFDIO, 0x00, struct uffdio_register)
	uffdioUnregister    = 0x8010aa01 // _IOR(UFFDIO, 0x01, struct uffdio_range)
	uffdioWriteProtect  = 0xc018aa06 // _IOWR(UFFDIO, 0x06, struct uffdio_writeprotect)
	uffdRegisterWP      = 1 << 1
	uffdFeatWPUnpopul   = 1 << 13 // Linux 6.4; PAGEMAP_SCAN wants it for anonymous memory
	uffdFeatWPAsync     = 1 << 15 // Linux 6.7
	uffdWantedFeatures  = uffdFeatWPUnpopul | uffdFeatWPAsync
	uffdWriteProtectOff = 0 // uffdio_writeprotect.mode without UFFDIO_WRITEPROTECT_MODE_WP
)

type uffdioAPIArg struct{ api, features, ioctls uint64 }

type uffdioRegisterArg struct{ start, length, mode, ioctls uint64 }

type uffdioRangeArg struct{ start, length uint64 }

type uffdioWriteProtectArg struct{ start, length, mode uint64 }

// handshake chooses the features of a new userfaultfd (UFFDIO_API).
func handshake(fd int) error {
	arg := uffdioAPIArg{api: uffdAPIVersion, features: uffdWantedFeatures}
	return uffdIoctl(fd, uffdioAPI, unsafe.Pointer(&arg))
}

// register makes the mappings in a range trackable. EBUSY: another userfaultfd has one of them. ENOMEM: the address
// space is gone.
func register(fd int, start, end uint64) error {
	arg := uffdioRegisterArg{start: start, length: end - start, mode: uffdRegisterWP}
	return uffdIoctl(fd, uffdioRegister, unsafe.Pointer(&arg))
}

// unregister undoes register.
func unregister(fd int, start, end uint64) error {
	arg := uffdioRangeArg{start: start, length: end - start}
	return uffdIoctl(fd, uffdioUnregister, unsafe.Pointer(&arg))
}

// unprotect makes all pages in a range written to (UFFDIO_WRITEPROTECT). The range must lie in registered mappings.
func unprotect(fd int, start, end uint64) error {
	arg := uffdioWriteProtectArg{start: start, length: end - start, mode: uffdWriteProtectOff}
	return uffdIoctl(fd, uffdioWriteProtect, unsafe.Pointer(&arg))
}

func uffdIoctl(fd int, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	runtime.KeepAlive(arg)
	if errno != 0 {
		return errno
	}
	return nil
}
