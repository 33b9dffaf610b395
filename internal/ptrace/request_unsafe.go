package ptrace

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of include/uapi/linux/ptrace.h that golang.org/x/sys/unix has no wrapper for.
const (
	requestSeize                = 0x4206
	requestInterrupt            = 0x4207
	requestPeekSigInfo          = 0x4209
	requestGetSigMask           = 0x420a
	requestSetSigMask           = 0x420b
	requestSeccompGetFilter     = 0x420c
	requestSeccompGetMetadata   = 0x420d
	requestGetRseqConfiguration = 0x420f // Linux 5.13
	requestSetSyscallUserConfig = 0x4210 // Linux 6.4
	requestGetSyscallUserConfig = 0x4211 // Linux 6.4
	requestGetSigInfo           = 0x4202
	peekSigInfoShared           = 1
	regsetPRStatus              = 1 // NT_PRSTATUS
	sizeofSigInfo               = 128
	sizeofSigSet                = 8
	eventStop                   = 128 // PTRACE_EVENT_STOP
	eventFork                   = 1
	eventVfork                  = 2
	eventClone                  = 3
	eventExec                   = 4
	optionSysGood               = 0x1
	optionTraceFork             = 0x2
	optionTraceVfork            = 0x4
	optionTraceClone            = 0x8
	optionExitKill              = 0x100000
	optionSuspendSeccomp        = 0x200000
	syscallStopBit              = 0x80
)

// request makes one ptrace call. It must run on the tracing thread.
//
// addr and data may be pointers. The directive makes what they point to escape to the heap and stay alive: a stack can
// move between the conversion to uintptr, in the caller, and the system call, and the kernel would then read and write
// where the variable was.
//
//go:uintptrescapes
func request(req, tid int, addr, data uintptr) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(req), uintptr(tid), addr, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// requestN is request for the requests that return a count.
//
//go:uintptrescapes
func requestN(req, tid int, addr, data uintptr) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(req), uintptr(tid), addr, data, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func getRegset(tid, set int, buf []byte) (int, error) {
	iov := unix.Iovec{Base: unsafe.SliceData(buf), Len: uint64(len(buf))}
	if err := request(unix.PTRACE_GETREGSET, tid, uintptr(set), uintptr(unsafe.Pointer(&iov))); err != nil {
		return 0, err
	}
	return int(iov.Len), nil
}

func setRegset(tid, set int, buf []byte) error {
	iov := unix.Iovec{Base: unsafe.SliceData(buf), Len: uint64(len(buf))}
	return request(unix.PTRACE_SETREGSET, tid, uintptr(set), uintptr(unsafe.Pointer(&iov)))
}

// Bytes returns the registers as the kernel lays them out. The slice shares r's memory.
func (r *Regs) Bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r))
}

func getSigMask(tid int) (mask uint64, err error) {
	err = request(requestGetSigMask, tid, sizeofSigSet, uintptr(unsafe.Pointer(&mask)))
	return mask, err
}

func setSigMask(tid int, mask uint64) error {
	return request(requestSetSigMask, tid, sizeofSigSet, uintptr(unsafe.Pointer(&mask)))
}

// peekSigInfo reads queued signals from position off on; one call returns at most len(buf)/128.
func peekSigInfo(tid int, off uint64, shared bool, buf []byte) (int, error) {
	args := struct {
		off   uint64
		flags uint32
		nr    int32
	}{off: off, nr: int32(len(buf) / sizeofSigInfo)}
	if shared {
		args.flags = peekSigInfoShared
	}
	return requestN(requestPeekSigInfo, tid, uintptr(unsafe.Pointer(&args)),
		uintptr(unsafe.Pointer(unsafe.SliceData(buf))))
}

func getSigInfo(tid int) ([]byte, error) {
	buf := make([]byte, sizeofSigInfo)
	err := request(requestGetSigInfo, tid, 0, uintptr(unsafe.Pointer(unsafe.SliceData(buf))))
	return buf, err
}

func getEventMsg(tid int) (msg uint64, err error) {
	err = request(unix.PTRACE_GETEVENTMSG, tid, 0, uintptr(unsafe.Pointer(&msg)))
	return msg, err
}

// getRseq reads struct ptrace_rseq_configuration.
func getRseq(tid int) (Rseq, error) {
	var c struct {
		ptr              uint64
		size, sig, flags uint32
		pad              uint32
	}
	if _, err := requestN(requestGetRseqConfiguration, tid, unsafe.Sizeof(c), uintptr(unsafe.Pointer(&c))); err != nil {
		return Rseq{}, err
	}
	return Rseq{Ptr: c.ptr, Size: c.size, Sig: c.sig}, nil
}

// getSUD reads struct ptrace_sud_config.
func getSUD(tid int) (s SUD, err error) {
	err = request(requestGetSyscallUserConfig, tid, unsafe.Sizeof(s), uintptr(unsafe.Pointer(&s)))
	return s, err
}

func setSUD(tid int, s *SUD) error {
	return request(requestSetSyscallUserConfig, tid, unsafe.Sizeof(*s), uintptr(unsafe.Pointer(s)))
}

// seccompFilter returns the program with the given index, 0 the newest, 8 bytes an instruction.
func seccompFilter(tid, index int) ([]byte, error) {
	n, err := requestN(requestSeccompGetFilter, tid, uintptr(index), 0)
	if err != nil {
		return nil, err
	}
	prog := make([]byte, 8*n)
	if _, err := requestN(requestSeccompGetFilter, tid, uintptr(index),
		uintptr(unsafe.Pointer(unsafe.SliceData(prog)))); err != nil {
		return nil, err
	}
	return prog, nil
}

func seccompFlags(tid, index int) (uint32, error) {
	meta := struct{ off, flags uint64 }{off: uint64(index)}
	if _, err := requestN(requestSeccompGetMetadata, tid, unsafe.Sizeof(meta),
		uintptr(unsafe.Pointer(&meta))); err != nil {
		return 0, err
	}
	return uint32(meta.flags), nil
}

// vmIovec is struct iovec for an address of another process.
type vmIovec struct {
	base uint64
	len  uint64
}

func processVM(nr uintptr, pid int, local []unix.Iovec, remote []vmIovec) (int, error) {
	n, _, errno := unix.Syscall6(nr, uintptr(pid), uintptr(unsafe.Pointer(unsafe.SliceData(local))),
		uintptr(len(local)),
		uintptr(unsafe.Pointer(unsafe.SliceData(remote))), uintptr(len(remote)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
