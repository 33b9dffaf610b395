package ptrace

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Range is a piece of another process's memory.
type Range struct {
	Addr uint64
	Len  int
}

// Peek reads len(buf) bytes of the process's memory at addr through /proc/PID/mem, PROT_NONE pages included. The thread
// need not be stopped.
func (th *Thread) Peek(addr uint64, buf []byte) error { return access(th.Pid, addr, buf, os.O_RDONLY) }

// Poke writes buf to the process's memory at addr through /proc/PID/mem, which ignores the protection of private
// mappings.
func (th *Thread) Poke(addr uint64, buf []byte) error { return access(th.Pid, addr, buf, os.O_WRONLY) }

// Shared reads the memory of a process through /proc/PID/mem: PROT_NONE pages, too, and it leaves pages that processes
// share since fork(2) shared. The zero value is ready; it opens the file when it is first needed.
type Shared struct {
	f *os.File
}

// Read fills dst from the ranges, in order. The process, the same for all calls, may run or be stopped. The error wraps
// that of open(2) or pread(2): ESRCH, ENOENT or EIO for memory that is gone or not mapped.
func (s *Shared) Read(pid int, ranges []Range, dst []byte) error {
	if s.f == nil {
		f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			return fmt.Errorf("open memory of pid %d: %w", pid, err)
		}
		s.f = f
	}
	for _, r := range ranges {
		if _, err := s.f.ReadAt(dst[:r.Len], int64(r.Addr)); err != nil {
			return fmt.Errorf("memory of pid %d at %#x: %w", pid, r.Addr, err)
		}
		dst = dst[r.Len:]
	}
	return nil
}

// Close closes the file.
func (s *Shared) Close() {
	if s.f != nil {
		_ = s.f.Close() // opened for reading
	}
}

func access(pid int, addr uint64, buf []byte, mode int) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), mode, 0)
	if err != nil {
		return fmt.Errorf("open memory of pid %d: %w", pid, err)
	}
	defer f.Close()
	if mode == os.O_RDONLY {
		_, err = f.ReadAt(buf, int64(addr))
	} else {
		_, err = f.WriteAt(buf, int64(addr))
	}
	if err != nil {
		return fmt.Errorf("memory of pid %d at %#x: %w", pid, addr, err)
	}
	return nil
}

// ReadMemory fills dst from the ranges, in order, with as few process_vm_readv(2) calls as possible. The process may
// run or be stopped; ranges must be readable (PROT_NONE is not: use Shared). It returns how many bytes were read
// before an error. It pins the pages meanwhile, and the kernel makes one that the process shares since fork(2) its own
// for that (mm/gup.c, gup_must_unshare, Linux 6.0).
func ReadMemory(pid int, ranges []Range, dst []byte) (int, error) {
	return transfer(unix.SYS_PROCESS_VM_READV, pid, ranges, dst)
}

// WriteMemory fills the ranges from src, in order, with process_vm_writev(2); ranges must be writable.
func WriteMemory(pid int, ranges []Range, src []byte) (int, error) {
	return transfer(unix.SYS_PROCESS_VM_WRITEV, pid, ranges, src)
}

// maxIovecs is UIO_MAXIOV (include/uapi/linux/uio.h).
const maxIovecs = 1024

func transfer(nr uintptr, pid int, ranges []Range, buf []byte) (int, error) {
	var scratch [maxIovecs]vmIovec
	done := 0
	for len(ranges) > 0 {
		n := min(len(ranges), maxIovecs)
		total := 0
		for i, r := range ranges[:n] {
			scratch[i] = vmIovec{base: r.Addr, len: uint64(r.Len)}
			total += r.Len
		}
		if total > len(buf)-done {
			return done, fmt.Errorf("memory of pid %d: buffer of %d bytes for %d: %w", pid, len(buf), done+total,
				unix.EINVAL)
		}
		if total > 0 {
			got, err := transferAll(nr, pid, scratch[:n], buf[done:done+total])
			done += got
			if err != nil {
				return done, err
			}
		}
		ranges = ranges[n:]
	}
	return done, nil
}

// transferAll moves len(buf) bytes, going on after the short counts that the kernel gives at 2 GiB and at a bad page.
func transferAll(nr uintptr, pid int, remote []vmIovec, buf []byte) (int, error) {
	done := 0
	for done < len(buf) {
		local := []unix.Iovec{{Base: unsafe.SliceData(buf[done:]), Len: uint64(len(buf) - done)}}
		n, err := processVM(nr, pid, local, remote)
		if err != nil {
			return done, fmt.Errorf("memory of pid %d at %#x: %w", pid, remote[0].base, err)
		}
		done += n
		remote = skip(remote, uint64(n))
	}
	return done, nil
}

// skip drops the first n bytes of a list, which it changes.
func skip(list []vmIovec, n uint64) []vmIovec {
	for len(list) > 0 && n >= list[0].len {
		n -= list[0].len
		list = list[1:]
	}
	if n > 0 {
		list[0].base += n
		list[0].len -= n
	}
	return list
}
