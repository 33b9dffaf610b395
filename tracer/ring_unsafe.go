package tracer

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The head of a record, its size with two marks (include/uapi/linux/bpf.h, BPF_RINGBUF_*); records begin at multiples of 8.
const (
	ringHeader  = 8
	ringBusy    = 1 << 31 // its writer has not finished
	ringDiscard = 1 << 30 // its writer thought better of it
)

// ring reads a ring buffer (kernel/bpf/ringbuf.c) in batches: where they end is looked up once, and how far the reader is is told once
// for many records. Both positions are of cache lines that every writer needs.
type ring struct {
	consumer, producer []byte // the mapped pages; behind the producer's, the records, twice, so that none is in two pieces
	taken, filled      *atomic.Uint64
	size               uint64
	read               uint64 // where the next record begins; taken lags behind it
	epoll, event       int
}

// openRing maps the ring buffer m. What is in it is forgotten.
func openRing(m *ebpf.Map) (r *ring, err error) {
	r = &ring{size: uint64(m.MaxEntries()), epoll: -1, event: -1}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	page := os.Getpagesize()
	if r.consumer, err = unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the reader's position: %w", err)
	}
	if r.producer, err = unix.Mmap(m.FD(), int64(page), page+2*int(r.size), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the records: %w", err)
	}
	r.taken = (*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(r.consumer)))
	r.filled = (*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(r.producer)))
	r.read = r.end()
	r.taken.Store(r.read)
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	if r.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	for _, fd := range []int{m.FD(), r.event} {
		// Edge-triggered: what lies in the ring without anybody having been woken can wait for more.
		if err = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)}); err != nil {
			return nil, fmt.Errorf("watch the ring buffer: %w", err)
		}
	}
	return r, nil
}

// wait returns true when a writer or wake has woken the reader, false when nobody has for so long. One goroutine at a time may wait.
func (r *ring) wait(limit time.Duration) (bool, error) {
	var events [2]unix.EpollEvent
	n, err := unix.EpollWait(r.epoll, events[:], int(limit.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return false, fmt.Errorf("wait for the ring buffer: %w", err)
	}
	return n > 0, nil
}

// wake ends a wait, the next one if none is under way.
func (r *ring) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(r.event, one[:]) // its count can be at its limit only if the reader is awake
}

// end is where the records there are now end.
func (r *ring) end() uint64 { return r.filled.Load() }

// waiting is how much nobody has read, bytes, what is being read included.
func (r *ring) waiting() uint64 { return r.end() - r.taken.Load() }

// each calls f for the records that begin before upTo, which must not be behind end. A record is valid until f returns.
func (r *ring) each(upTo uint64, f func(record []byte)) error {
	records, end, spins := r.producer[os.Getpagesize():], r.end(), 0
	for r.read < upTo {
		at := r.read & (r.size - 1)
		head := (*atomic.Uint32)(unsafe.Pointer(&records[at])).Load()
		if head&ringBusy != 0 {
			// A probe is filling it in, which takes less than giving up the processor would; unless it had to give up its own.
			if spins++; spins%4096 == 0 {
				time.Sleep(20 * time.Microsecond)
			}
			continue
		}
		n := uint64(head &^ ringDiscard)
		if n > end-r.read-ringHeader {
			return fmt.Errorf("the ring buffer has a record of %d bytes with %d left", n, end-r.read)
		}
		if head&ringDiscard == 0 {
			f(records[at+ringHeader:][:n:n])
		}
		r.read += (ringHeader + n + 7) &^ 7
		if r.read-r.taken.Load() >= r.size/8 {
			r.taken.Store(r.read)
		}
	}
	r.taken.Store(r.read)
	return nil
}

// Close gives everything back. Nobody may be reading.
func (r *ring) Close() {
	for _, b := range [][]byte{r.consumer, r.producer} {
		if b != nil {
			_ = unix.Munmap(b)
		}
	}
	for _, fd := range []int{r.epoll, r.event} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
