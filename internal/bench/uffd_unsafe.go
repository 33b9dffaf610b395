package bench

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/userfaultfd.h, for machines whose ioctl numbers have the generic layout.
const (
	uffdUserModeOnly    = 1
	uffdAPIVersion      = 0xaa
	uffdioAPI           = 0xc018aa3f // _IOWR(UFFDIO, 0x3f, struct uffdio_api)
	uffdioRegister      = 0xc020aa00 // _IOWR(UFFDIO, 0x00, struct uffdio_register)
	uffdioCopy          = 0xc028aa03 // _IOWR(UFFDIO, 0x03, struct uffdio_copy)
	uffdRegisterMissing = 1
)

type uffdioAPIArg struct{ api, features, ioctls uint64 }

type uffdioRegisterArg struct{ start, length, mode, ioctls uint64 }

type uffdioCopyArg struct {
	dst, src, length, mode uint64
	copied                 int64
}

// uffd is a userfaultfd that a region of our own memory is registered with.
type uffd struct{ fd int }

func newUffd(region []byte) (*uffd, error) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|uffdUserModeOnly, 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("userfaultfd: %w", errno)
	}
	u := &uffd{fd: int(fd)}
	api := uffdioAPIArg{api: uffdAPIVersion}
	if err := u.ioctl(uffdioAPI, unsafe.Pointer(&api)); err != nil {
		u.close()
		return nil, fmt.Errorf("UFFDIO_API: %w", err)
	}
	reg := uffdioRegisterArg{start: addressOf(region), length: uint64(len(region)), mode: uffdRegisterMissing}
	if err := u.ioctl(uffdioRegister, unsafe.Pointer(&reg)); err != nil {
		u.close()
		return nil, fmt.Errorf("UFFDIO_REGISTER: %w", err)
	}
	return u, nil
}

// copy puts the pages of src at the start of dst, which must hold none yet.
func (u *uffd) copy(dst, src []byte) error {
	arg := uffdioCopyArg{dst: addressOf(dst), src: addressOf(src), length: uint64(len(src))}
	err := u.ioctl(uffdioCopy, unsafe.Pointer(&arg))
	runtime.KeepAlive(src)
	if err != nil {
		return fmt.Errorf("UFFDIO_COPY: %w", err)
	}
	return nil
}

func (u *uffd) ioctl(request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(u.fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

func (u *uffd) close() { _ = unix.Close(u.fd) }

// addressOf returns where b is. It must be heap or mapped memory, which does not move, and be kept alive.
func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }
