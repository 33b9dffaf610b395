package tracer

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// recordOf is b as a record of type T. It must hold one, and begin at a multiple of 8, which wordBuffer sees to.
func recordOf[T any](b []byte) *T {
	var zero T
	if uintptr(len(b)) < unsafe.Sizeof(zero) {
		return nil
	}
	return (*T)(unsafe.Pointer(unsafe.SliceData(b)))
}

// sizeOf is the size of a record's fixed part.
func sizeOf[T any]() int {
	var zero T
	return int(unsafe.Sizeof(zero))
}

// wordBuffer returns n bytes, rounded up, that begin at a multiple of 8.
func wordBuffer(n int) []byte {
	words := make([]uint64, (n+7)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), len(words)*8)
}

// cstring is a zero-terminated char array as a string.
func cstring(c []int8) string {
	b := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(c))), len(c))
	return unix.ByteSliceToString(b)
}

// Commands and types of bpf(2), include/uapi/linux/bpf.h.
const (
	cmdLinkCreate  = 28 // BPF_LINK_CREATE
	cmdIterCreate  = 33 // BPF_ITER_CREATE
	attachIter     = 28 // BPF_TRACE_ITER
	iterBufferSize = 8 << 12
)

// iterTarget is the task member of union bpf_iter_link_info (Linux 6.1): exactly one of the three is set.
type iterTarget struct{ tid, pid, pidfd uint32 }

// openIter links an iterator program to a target and returns a descriptor whose reads run it. The link is gone with the
// descriptor.
func openIter(prog int, target iterTarget) (int, error) {
	create := struct {
		prog, target, attachType, flags uint32
		info                            unsafe.Pointer
		infoLen, pad                    uint32
	}{
		prog:       uint32(prog),
		attachType: attachIter,
		info:       unsafe.Pointer(&target),
		infoLen:    uint32(unsafe.Sizeof(target)),
	}
	link, _, errno := unix.Syscall(unix.SYS_BPF, cmdLinkCreate, uintptr(unsafe.Pointer(&create)), unsafe.Sizeof(create))
	if errno != 0 {
		return -1, errno
	}
	defer unix.Close(int(link))
	open := struct{ link, flags uint32 }{link: uint32(link)}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, cmdIterCreate, uintptr(unsafe.Pointer(&open)), unsafe.Sizeof(open))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// words32 is b as 32-bit numbers of this machine; b must begin at a multiple of 4.
func words32(b []byte) []uint32 {
	if len(b) < 4 {
		return nil
	}
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}
