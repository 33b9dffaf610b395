package restore

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/lazy"
)

// A page that is there already is written to, and what cannot be filled is an error, not a page without its content.
func TestFillOverAPage(t *testing.T) {
	const size = 8 * pageSize
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE) // a kernel without huge pages needs no telling
	mem[3*pageSize] = 1
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	f := filler{p: &process{pid: os.Getpid()}, fd: int(fd)}
	defer f.close()
	at := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))
	if err := lazy.HandshakePlain(f.fd); err != nil {
		t.Fatal(err)
	}
	if err := lazy.Register(f.fd, at, at+size/2); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{7}, size/2)
	if err := f.fill(at, want); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mem[:size/2], want) {
		t.Error("the content is not what was filled in")
	}
	if err := f.fill(at+size/2, want); !errors.Is(err, unix.ENOENT) {
		t.Errorf("outside of what is registered: %v", err)
	}
	if err := unix.Mprotect(mem[3*pageSize:4*pageSize], unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	if err := f.fill(at+3*pageSize, want[:pageSize]); err == nil {
		t.Error("a page that can be neither filled nor written was taken for done")
	}
}
