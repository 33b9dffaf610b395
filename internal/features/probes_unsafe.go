package features

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// address is that of memory which does not move: mapped, or pinned.
func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

func traceMe() *syscall.SysProcAttr { return &syscall.SysProcAttr{Ptrace: true} }

// ptrace makes a request that takes an address and a pointer to data.
func ptrace(request, pid int, addr uintptr, data []byte) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), addr,
		uintptr(unsafe.Pointer(unsafe.SliceData(data))), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// option sets an option of a traced child.
func option(pid int, bits uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SETOPTIONS, uintptr(pid), 0, bits, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func seizeOptions(pid int) error {
	if err := option(pid, unix.PTRACE_O_EXITKILL); err != nil {
		return absent(err, unix.EINVAL, unix.EIO)
	}
	return nil
}

func suspendSeccomp(pid int) error {
	if err := option(pid, unix.PTRACE_O_SUSPEND_SECCOMP); err != nil {
		return fmt.Errorf("PTRACE_SETOPTIONS: %w", absent(err, unix.EINVAL))
	}
	return nil
}

// peekSigInfo asks for no signal at all. struct ptrace_peeksiginfo_args: u64 off, u32 flags, s32 nr (linux/ptrace.h).
func peekSigInfo(pid int) error {
	args := make([]byte, 16)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&args[0])
	if err := ptrace(unix.PTRACE_PEEKSIGINFO, pid, uintptr(address(args)), nil); err != nil {
		return absent(err, unix.EIO)
	}
	return nil
}

// getRseq reads struct ptrace_rseq_configuration, 24 bytes (linux/ptrace.h).
func getRseq(pid int) error {
	if err := ptrace(unix.PTRACE_GET_RSEQ_CONFIGURATION, pid, 24, make([]byte, 24)); err != nil {
		return absent(err, unix.EIO)
	}
	return nil
}

// getUserDispatch reads struct ptrace_sud_config, 32 bytes (linux/ptrace.h).
func getUserDispatch(pid int) error {
	if err := ptrace(unix.PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, pid, 32, make([]byte, 32)); err != nil {
		return absent(err, unix.EIO)
	}
	return nil
}

// getSeccompFilter asks for the filters of a child without any: EINVAL is the answer of a kernel that can tell
// (kernel/seccomp.c, seccomp_get_filter), EIO that of one without CONFIG_CHECKPOINT_RESTORE.
func getSeccompFilter(pid int) error {
	err := ptrace(unix.PTRACE_SECCOMP_GET_FILTER, pid, 0, nil)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return absent(err, unix.EIO)
}

func readOwnMemory() error {
	from, to := []byte("probe"), make([]byte, 5)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&from[0])
	local := []unix.Iovec{{Base: &to[0], Len: uint64(len(to))}}
	remote := []unix.RemoteIovec{{Base: uintptr(address(from)), Len: len(from)}}
	n, err := unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
	if err != nil {
		return absent(err)
	}
	if n != len(from) || string(to) != "probe" {
		return fmt.Errorf("%d bytes came back: %q", n, to)
	}
	return nil
}

// compareOwnFDs compares standard error with itself (kcmp(2), KCMP_FILE is 0).
func compareOwnFDs() error {
	pid := uintptr(os.Getpid())
	_, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, 0, 2, 2, 0)
	if errno != 0 && errno != unix.EBADF {
		return absent(errno)
	}
	return nil
}

// cloneArgs is struct clone_args up to set_tid_size, 80 bytes (linux/sched.h, CLONE_ARGS_SIZE_VER1).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize uint64
}

// cloneWithID asks for a child with our own id. The kernel checks the right to choose ids first and the id last
// (kernel/pid.c, alloc_pid): EEXIST says that everything but the id was fine, and there is never a child.
func cloneWithID() error {
	id := []byte{0, 0, 0, 0}
	binary.NativeEndian.PutUint32(id, uint32(os.Getpid()))
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&id[0])
	args := cloneArgs{exitSignal: uint64(unix.SIGCHLD), setTID: address(id), setTIDSize: 1}
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if errno == 0 && pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0) // a child after all: it must not return into the Go runtime
	}
	switch errno {
	case unix.EEXIST:
		return nil
	case 0:
		return fmt.Errorf("a second process with our own id was made")
	}
	return fmt.Errorf("clone3: %w", absent(errno, unix.E2BIG, unix.EINVAL))
}

// mmMap is struct prctl_mm_map (linux/prctl.h).
type mmMap struct {
	startCode, endCode, startData, endData, startBrk, brk, startStack, argStart, argEnd, envStart, envEnd uint64
	auxv                                                                                                  uint64
	auxvSize, exeFD                                                                                       uint32
}

// setMMMap gives this process the layout it has.
func setMMMap() error {
	f, err := ownLayout()
	if err != nil {
		return err
	}
	field := func(n int) (v uint64) { // field n of proc_pid_stat(5); the first two are cut off
		v, e := strconv.ParseUint(f[n-3], 10, 64)
		err = errors.Join(err, e)
		return v
	}
	brk, _, _ := unix.Syscall(unix.SYS_BRK, 0, 0, 0)
	m := mmMap{
		startCode: field(26), endCode: field(27), startStack: field(28), startData: field(45), endData: field(46),
		startBrk: field(47),
		brk:      uint64(brk), argStart: field(48), argEnd: field(49), envStart: field(50), envEnd: field(51),
		exeFD: ^uint32(0),
	}
	if err != nil {
		return fmt.Errorf("read /proc/self/stat: %w", err)
	}
	_, _, errno := unix.Syscall6(unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP, uintptr(unsafe.Pointer(&m)),
		unsafe.Sizeof(m), 0, 0)
	if errno != 0 {
		return fmt.Errorf("prctl: %w", absent(errno, unix.EINVAL))
	}
	return nil
}

// ioctl passes a buffer.
func ioctl(fd int, request uintptr, data []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(unsafe.SliceData(data))))
	if errno != 0 {
		return errno
	}
	return nil
}

// PAGEMAP_SCAN and struct pm_scan_arg, 96 bytes; struct page_region, 24 bytes (linux/fs.h, Linux 6.7).
const (
	pagemapScan    = 0xc0606610
	scanWPMatching = 1 << 0
	pageIsWritten  = 1 << 1
	pageIsPresent  = 1 << 3
)

// scan looks for pages of a category and, if protect, makes them clean again. It reports whether it found any.
func scan(pages []byte, category uint64, protect bool) (bool, error) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return false, err
	}
	defer f.Close()
	region, arg := make([]byte, 24), make([]byte, 96)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&region[0])
	put := func(i int, v uint64) { binary.NativeEndian.PutUint64(arg[8*i:], v) }
	put(0, 96)
	if protect {
		put(1, scanWPMatching)
	}
	put(2, address(pages))
	put(3, address(pages)+uint64(len(pages)))
	put(5, address(region))
	put(6, 1)
	put(9, category)  // category_mask
	put(11, category) // return_mask
	err = ioctl(int(f.Fd()), pagemapScan, arg)
	if err != nil {
		return false, absent(err, unix.ENOTTY)
	}
	return binary.NativeEndian.Uint64(region[8:]) != 0, nil
}

func scanPagemap() error {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map a page: %w", err)
	}
	defer unix.Munmap(page)
	page[0] = 1
	found, err := scan(page, pageIsPresent, false)
	if err == nil && !found {
		err = errors.New("PAGEMAP_SCAN does not see a page that is there")
	}
	return err
}

// userfaultfd (linux/userfaultfd.h): ioctl numbers, features and modes.
const (
	uffdioAPI         = 0xc018aa3f
	uffdioRegister    = 0xc020aa00
	uffdWPUnpopulated = 1 << 13
	uffdWPAsync       = 1 << 15
	uffdRegisterWP    = 1 << 1

	uffdioPoison        = 0xc020aa08
	uffdRegisterMissing = 1 << 0
	uffdPoison          = 1 << 14
	uffdEvents          = 1<<1 | 1<<2 | 1<<3 | 1<<6 // fork, remap, remove, unmap
)

// lazyPages makes a userfaultfd as restore --lazy needs it, and poisons a page with it.
func lazyPages() error {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map a page: %w", err)
	}
	defer unix.Munmap(page) // after the descriptor is closed: else it would wait for us to read about it
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return fmt.Errorf("userfaultfd: %w", absent(errno))
	}
	defer unix.Close(int(fd))
	api := make([]byte, 24)
	binary.NativeEndian.PutUint64(api, 0xaa)
	binary.NativeEndian.PutUint64(api[8:], uffdPoison|uffdEvents)
	if err := ioctl(int(fd), uffdioAPI, api); err != nil {
		return fmt.Errorf("UFFDIO_API: %w", absent(err, unix.EINVAL))
	}
	arg := make([]byte, 32)
	binary.NativeEndian.PutUint64(arg, address(page))
	binary.NativeEndian.PutUint64(arg[8:], uint64(len(page)))
	binary.NativeEndian.PutUint64(arg[16:], uffdRegisterMissing)
	if err := ioctl(int(fd), uffdioRegister, arg); err != nil {
		return fmt.Errorf("UFFDIO_REGISTER: %w", absent(err, unix.EINVAL))
	}
	clear(arg[16:])
	if err := ioctl(int(fd), uffdioPoison, arg); err != nil {
		return fmt.Errorf("UFFDIO_POISON: %w", absent(err, unix.EINVAL, unix.ENOTTY))
	}
	return nil
}

// trackByUffd makes the round trip that incremental snapshots rest on: a protected page reads as clean, and after a
// write as written.
func trackByUffd() error {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return fmt.Errorf("userfaultfd: %w", absent(errno))
	}
	defer unix.Close(int(fd))
	api := make([]byte, 24)
	binary.NativeEndian.PutUint64(api, 0xaa)
	binary.NativeEndian.PutUint64(api[8:], uffdWPAsync|uffdWPUnpopulated)
	if err := ioctl(int(fd), uffdioAPI, api); err != nil {
		return fmt.Errorf("UFFDIO_API: %w", absent(err, unix.EINVAL))
	}
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map a page: %w", err)
	}
	defer unix.Munmap(page)
	reg := make([]byte, 32)
	binary.NativeEndian.PutUint64(reg, address(page))
	binary.NativeEndian.PutUint64(reg[8:], uint64(len(page)))
	binary.NativeEndian.PutUint64(reg[16:], uffdRegisterWP)
	if err := ioctl(int(fd), uffdioRegister, reg); err != nil {
		return fmt.Errorf("UFFDIO_REGISTER: %w", absent(err, unix.EINVAL))
	}
	if _, err := scan(page, pageIsWritten, true); err != nil {
		return fmt.Errorf("PAGEMAP_SCAN: %w", err)
	}
	for _, want := range []bool{false, true} {
		if want {
			page[0] = 1
		}
		got, err := scan(page, pageIsWritten, false)
		if err != nil {
			return fmt.Errorf("PAGEMAP_SCAN: %w", err)
		}
		if got != want {
			return fmt.Errorf("a page is written: %v, PAGEMAP_SCAN says %v", want, got)
		}
	}
	return nil
}
