package fdtable

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// ReadBeyond reads what a shared mapping shows of an object after its end, in its last page: no read(2) does, yet in
// memory (tmpfs, memfd) it stays what a program wrote there until the object is resized. end is the size of the object,
// bytes; buf begins there and ends at most with the page.
func ReadBeyond(f *os.File, end int64, buf []byte) error {
	return beyond(f, end, unix.PROT_READ, func(at uint64) error {
		_, err := ptrace.ReadMemory(os.Getpid(), []ptrace.Range{{Addr: at, Len: len(buf)}}, buf)
		return err
	})
}

// WriteBeyond puts it back.
func WriteBeyond(f *os.File, end int64, data []byte) error {
	return beyond(f, end, unix.PROT_READ|unix.PROT_WRITE, func(at uint64) error {
		_, err := ptrace.WriteMemory(os.Getpid(), []ptrace.Range{{Addr: at, Len: len(data)}}, data)
		return err
	})
}

// beyond maps the last page of an object and calls do with the address of its end. The page is accessed by system calls
// alone: if somebody cuts the object meanwhile, they fail, and nobody gets a SIGBUS.
func beyond(f *os.File, end int64, prot int, do func(at uint64) error) error {
	const mask = model.PageSize - 1
	page, err := unix.Mmap(int(f.Fd()), end&^mask, model.PageSize, prot, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the last page of %s: %w", f.Name(), err)
	}
	defer func() { _ = unix.Munmap(page) }()
	if err := do(uint64(uintptr(unsafe.Pointer(unsafe.SliceData(page)))) + uint64(end&mask)); err != nil {
		return fmt.Errorf("memory after the end of %s: %w", f.Name(), err)
	}
	return nil
}
