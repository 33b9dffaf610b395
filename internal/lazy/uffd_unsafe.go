package lazy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/userfaultfd.h, for machines whose ioctl numbers have the generic layout.
const (
	uffdAPIVersion      = 0xaa
	uffdioAPI           = 0xc018aa3f // _IOWR(UFFDIO, 0x3f, struct uffdio_api)
	uffdioRegister      = 0xc020aa00 // _IOWR(UFFDIO, 0x00, struct uffdio_register)
	uffdioWake          = 0x8010aa02 // _IOR(UFFDIO, 0x02, struct uffdio_range)
	uffdioCopy          = 0xc028aa03 // _IOWR(UFFDIO, 0x03, struct uffdio_copy)
	uffdioZeropage      = 0xc020aa04 // _IOWR(UFFDIO, 0x04, struct uffdio_zeropage)
	uffdioPoison        = 0xc020aa08 // _IOWR(UFFDIO, 0x08, struct uffdio_poison), Linux 6.6
	uffdRegisterMissing = 1 << 0

	featEventFork   = 1 << 1 // needs CAP_SYS_PTRACE of whoever shakes hands
	featEventRemap  = 1 << 2
	featEventRemove = 1 << 3
	featEventUnmap  = 1 << 6
	featPoison      = 1 << 14
	wantedFeatures  = featEventFork | featEventRemap | featEventRemove | featEventUnmap | featPoison

	eventFault  = 0x12
	eventFork   = 0x13
	eventRemap  = 0x14
	eventRemove = 0x15
	eventUnmap  = 0x16

	messageSize = 32 // sizeof(struct uffd_msg)
)

type apiArg struct{ api, features, ioctls uint64 }

type registerArg struct{ start, length, mode, ioctls uint64 }

type rangeArg struct{ start, length uint64 }

// fillArg is struct uffdio_zeropage and struct uffdio_poison: done is how many bytes were filled, or a negative errno.
type fillArg struct {
	start, length, mode uint64
	done                int64
}

type copyArg struct {
	dst, src, length, mode uint64
	done                   int64
}

// Handshake chooses the features of a new userfaultfd. EINVAL: the kernel lacks one of them.
func Handshake(fd int) error {
	arg := apiArg{api: uffdAPIVersion, features: wantedFeatures}
	return ioctl(fd, uffdioAPI, unsafe.Pointer(&arg))
}

// HandshakePlain is Handshake for one whose only use is CopyIn: no features are asked for (ioctl_userfaultfd(2), Linux
// 4.3).
func HandshakePlain(fd int) error {
	arg := apiArg{api: uffdAPIVersion}
	return ioctl(fd, uffdioAPI, unsafe.Pointer(&arg))
}

// Register makes the faults on missing pages of the mappings in a range come to fd.
func Register(fd int, start, end uint64) error {
	arg := registerArg{start: start, length: end - start, mode: uffdRegisterMissing}
	return ioctl(fd, uffdioRegister, unsafe.Pointer(&arg))
}

// wake lets the threads that wait for pages in a range look again.
func wake(fd int, start, size uint64) {
	arg := rangeArg{start, size}
	_ = ioctl(fd, uffdioWake, unsafe.Pointer(&arg)) // it fails for ranges that nobody can wait in
}

// CopyIn puts data, whole pages, at addr, where no page may be. It returns how many bytes it put there; fewer than all
// come with an error, of ioctl_userfaultfd(2): EEXIST, there is a page; ENOENT, no registered mapping is there; ESRCH,
// the address space is no more.
func CopyIn(fd int, addr uint64, data []byte) (uint64, error) {
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(unsafe.SliceData(data))
	arg := copyArg{dst: addr, src: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(data)))), length: uint64(len(data))}
	err := ioctl(fd, uffdioCopy, unsafe.Pointer(&arg))
	return outcome(arg.done, err)
}

// zero puts zero pages into a range; otherwise it is like CopyIn.
func zero(fd int, addr, size uint64) (uint64, error) { return fill(fd, uffdioZeropage, addr, size) }

// poison makes every access to a range a SIGBUS; otherwise it is like CopyIn.
func poison(fd int, addr, size uint64) (uint64, error) { return fill(fd, uffdioPoison, addr, size) }

func fill(fd int, request uintptr, addr, size uint64) (uint64, error) {
	arg := fillArg{start: addr, length: size}
	err := ioctl(fd, request, unsafe.Pointer(&arg))
	return outcome(arg.done, err)
}

// outcome makes sense of what the kernel answers: it says EAGAIN also when it was stopped half-way by another error,
// which the next attempt tells.
func outcome(done int64, err error) (uint64, error) {
	if done > 0 {
		return uint64(done), err
	}
	return 0, err
}

// message is struct uffd_msg.
type message struct {
	event   byte
	a, b, c uint64
}

// The arguments of the events.
func (m *message) faultAt() uint64                { return m.b }
func (m *message) childFD() int                   { return int(uint32(m.a)) }
func (m *message) remap() (from, to, size uint64) { return m.a, m.b, m.c }
func (m *message) removed() (start, end uint64)   { return m.a, m.b }

// receive reads one message. ok is false if there is none. That of a fork makes a descriptor in this process.
func receive(fd int) (m message, ok bool, err error) {
	var b [messageSize]byte
	for {
		n, err := unix.Read(fd, b[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return m, false, nil
		case err != nil:
			return m, false, fmt.Errorf("read a userfaultfd: %w", err)
		case n != messageSize:
			return m, false, fmt.Errorf("read a userfaultfd: %d bytes", n)
		}
		word := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8*i:]) }
		return message{b[0], word(1), word(2), word(3)}, true, nil
	}
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	runtime.KeepAlive(arg)
	if errno != 0 {
		return errno
	}
	return nil
}

// processMadvise is process_madvise(2) for one range of another process.
func processMadvise(pidfd int, addr, size uint64, advice int) unix.Errno {
	vec := rangeArg{addr, size} // struct iovec
	_, _, errno := unix.Syscall6(unix.SYS_PROCESS_MADVISE, uintptr(pidfd), uintptr(unsafe.Pointer(&vec)), 1,
		uintptr(advice), 0, 0)
	return errno
}
