package snapshot

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// arena is memory for the copy of the target's pages, outside the Go heap: it is filled with pages before the freeze,
// so that no page fault and no garbage collection falls into it, and given back piece by piece while the copy is
// encoded.
type arena struct {
	mem  []byte
	used int
}

// newArena maps size bytes and makes the first ready of them present.
func newArena(ready, size int) (*arena, error) {
	size, ready = roundUp(size), roundUp(ready)
	if size == 0 {
		return &arena{}, nil
	}
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fault.New(fault.NoMemory, fmt.Sprintf("%d bytes", size), "mmap: %w", err)
	}
	a := &arena{mem: mem}
	// A kernel without huge pages says EINVAL; small ones do as well. A fork of ours must not copy it.
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	if ready > 0 {
		// Linux 5.14
		if err := unix.Madvise(mem[:ready], unix.MADV_POPULATE_WRITE); err != nil && !errors.Is(err, unix.EINVAL) {
			a.free()
			return nil, fault.New(fault.NoMemory, fmt.Sprintf("%d bytes", ready), "make pages present: %w", err)
		}
	}
	return a, nil
}

// take returns the next n bytes, nil if there are not as many left.
func (a *arena) take(n int) []byte {
	if n > len(a.mem)-a.used {
		return nil
	}
	b := a.mem[a.used : a.used+n : a.used+n]
	a.used += n
	return b
}

// release gives the pages of b, which take returned, back to the kernel.
func (a *arena) release(b []byte) {
	if len(b) > 0 {
		_ = unix.Madvise(b, unix.MADV_DONTNEED) // they go with the arena in any case
	}
}

// free unmaps the arena. It may be called twice.
func (a *arena) free() {
	if a.mem != nil {
		_ = unix.Munmap(a.mem) // fails for memory that is not ours only
		a.mem = nil
	}
}

func roundUp(n int) int { return (n + model.PageSize - 1) &^ (model.PageSize - 1) }

// memoryAvailable returns what the machine can still give, bytes (MemAvailable, proc_meminfo(5)).
func memoryAvailable() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read available memory: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/meminfo: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

// estimate returns how many bytes a copy of the processes' own memory takes now: what is anonymous, shared or swapped
// out.
func estimate(pids []int) (int64, error) {
	var sum int64
	for _, pid := range pids {
		status, err := procfs.Pid(pid).Status()
		if isGone(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		sum += int64(status.RssAnon+status.RssShmem+status.VmSwap) << 10
	}
	return sum, nil
}
