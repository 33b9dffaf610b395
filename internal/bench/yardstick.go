package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// The yardsticks: the least work with which memory can be read, written to a disk, and put into a process.

// yardBuffer is the size in which the yardsticks work, bytes. Larger ones are no faster here and leave the caches.
const yardBuffer = 4 << 20

// maxIovecs is what one call takes (UIO_MAXIOV, include/uapi/linux/uio.h).
const maxIovecs = 1024

// readPass reads all private anonymous memory of a process once by process_vm_readv(2) and returns how much that was.
func readPass(pid int) (bytes int64, took time.Duration, err error) {
	maps, err := procfs.Pid(pid).Maps()
	if err != nil {
		return 0, 0, fmt.Errorf("read the mappings of pid %d: %w", pid, err)
	}
	batches := batch(maps)
	buf := make([]byte, yardBuffer)
	for i := range buf {
		buf[i] = 1 // the buffer's own page faults are not the pass's
	}
	start := time.Now()
	for _, b := range batches {
		want := 0
		for _, r := range b {
			want += r.Len
		}
		n, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &buf[0], Len: uint64(want)}}, b, 0)
		if err != nil || n != want {
			return bytes, 0, fmt.Errorf("process_vm_readv of pid %d: %d of %d bytes: %w", pid, n, want, err)
		}
		bytes += int64(n)
	}
	return bytes, time.Since(start), nil
}

// kernelMade are the mappings that belong to the kernel and are in no image.
var kernelMade = map[string]bool{"[vvar]": true, "[vvar_vclock]": true, "[vdso]": true, "[vsyscall]": true}

// batch cuts the private anonymous mappings into calls that fit the buffer and the limit of one call.
func batch(maps []procfs.Map) [][]unix.RemoteIovec {
	var out [][]unix.RemoteIovec
	var cur []unix.RemoteIovec
	room := yardBuffer
	flush := func() {
		if len(cur) > 0 {
			out = append(out, cur)
		}
		cur, room = nil, yardBuffer
	}
	for i := range maps {
		m := &maps[i]
		if m.HasFile() || m.Shared || m.Prot&unix.PROT_READ == 0 || kernelMade[m.Name] {
			continue
		}
		for at := m.Start; at < m.End; {
			n := int(min(m.End-at, uint64(room)))
			cur = append(cur, unix.RemoteIovec{Base: uintptr(at), Len: n})
			at += uint64(n)
			if room -= n; room == 0 || len(cur) == maxIovecs {
				flush()
			}
		}
	}
	flush()
	return out
}

// writePass writes that many bytes to a new file in dir, makes them durable, and removes the file.
func writePass(dir string, bytes int64) (time.Duration, error) {
	buf := make([]byte, yardBuffer)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	name := filepath.Join(dir, "yardstick")
	defer os.Remove(name)
	start := time.Now()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, fmt.Errorf("write the yardstick: %w", err)
	}
	defer f.Close()
	for left := bytes; left > 0; left -= yardBuffer {
		if _, err := f.Write(buf[:min(left, yardBuffer)]); err != nil {
			return 0, fmt.Errorf("write the yardstick: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("sync the yardstick: %w", err)
	}
	return time.Since(start), nil
}

// copyPass fills that much fresh memory of our own through UFFDIO_COPY, the way a restore can fill another process.
func copyPass(bytes int64) (time.Duration, error) {
	mem, err := unix.Mmap(-1, 0, int(bytes), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return 0, fmt.Errorf("map the yardstick: %w", err)
	}
	defer func() { _ = unix.Munmap(mem) }() // nothing depends on it
	src := make([]byte, yardBuffer)
	for i := range src {
		src[i] = byte(i)
	}
	u, err := newUffd(mem)
	if err != nil {
		return 0, err
	}
	defer u.close()
	start := time.Now()
	for at := int64(0); at < bytes; at += yardBuffer {
		if err := u.copy(mem[at:], src[:min(bytes-at, yardBuffer)]); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}
