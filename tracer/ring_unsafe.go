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

	"github.com/bpfckpt/bpfckpt/bpf"
)

// ring reads the ring of bpf/ring.h in batches: where they end is looked up once, and how far the reader is is told
// once for many records. Both positions are of cache lines that every writer needs.
type ring struct {
	memory        []byte // the mapped map
	records       []byte // of it
	taken, filled *atomic.Uint64
	size          uint64
	read          uint64 // where the next record begins; taken lags behind it
	waker         waker
	epoll, event  int
}

const (
	ringRecords = uint64(bpf.WatchRingLayoutRING_RECORDS)
	ringSpill   = uint64(bpf.WatchRingLayoutRING_SPILL)
	ringHead    = 8 // of each record: its size with this, 0 until it is whole
)

// waker is the kernel's ring buffer by which writers wake the reader (kernel/bpf/ringbuf.c). Of what is in it nothing
// is read.
type waker struct {
	consumer, producer []byte // the mapped positions
}

// ringMapBytes is the size of the map of a ring of size bytes.
func ringMapBytes(size int) uint32 { return uint32(ringRecords + uint64(size) + ringSpill) }

// openRing maps a ring of size bytes and what its writers wake us with.
func openRing(m, wakes *ebpf.Map, size int) (_ *ring, err error) {
	r := &ring{size: uint64(size), epoll: -1, event: -1}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if r.memory, err = unix.Mmap(m.FD(), 0, int(ringMapBytes(size)), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the ring: %w", err)
	}
	r.lieIn(r.memory)
	page := os.Getpagesize()
	if r.waker.consumer, err = unix.Mmap(wakes.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map what wakes the reader: %w", err)
	}
	if r.waker.producer, err = unix.Mmap(wakes.FD(), int64(page), page, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map what wakes the reader: %w", err)
	}
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	if r.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	for _, fd := range []int{wakes.FD(), r.event} {
		// Edge-triggered: what lies in the ring without anybody having been woken can wait for more.
		if err = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd,
			&unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)}); err != nil {
			return nil, fmt.Errorf("watch the ring: %w", err)
		}
	}
	return r, nil
}

// lieIn sets where the ring is.
func (r *ring) lieIn(memory []byte) {
	head := (*bpf.WatchRingHead)(unsafe.Pointer(unsafe.SliceData(memory)))
	r.filled = (*atomic.Uint64)(unsafe.Pointer(&head.Filled))
	r.taken = (*atomic.Uint64)(unsafe.Pointer(&head.Taken))
	r.records = memory[ringRecords:]
}

// forget takes what woke us: if it is full nobody is woken any more.
func (w waker) forget() {
	if w.consumer != nil {
		at := (*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(w.producer))).Load()
		(*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(w.consumer))).Store(at)
	}
}

// wait returns true when a writer or wake has woken the reader, false when nobody has for so long. One goroutine at a
// time may wait.
func (r *ring) wait(limit time.Duration) (bool, error) {
	var events [2]unix.EpollEvent
	n, err := unix.EpollWait(r.epoll, events[:], int(limit.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return false, fmt.Errorf("wait for the ring: %w", err)
	}
	r.waker.forget() // before the ring is looked at: what comes after that wakes us again
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
	end, spins := r.end(), 0
	for r.read < upTo {
		at := r.read & (r.size - 1)
		n := (*atomic.Uint64)(unsafe.Pointer(&r.records[at])).Load()
		if n == 0 {
			// A probe is filling it in, which takes less than giving up the processor would; unless it had to give up
			// its own.
			if spins++; spins%4096 == 0 {
				time.Sleep(20 * time.Microsecond)
			}
			continue
		}
		if n < ringHead || n%8 != 0 || n > min(end-r.read, ringSpill) {
			return fmt.Errorf("the ring has a record of %d bytes with %d left", n, end-r.read)
		}
		record := r.records[at:][:n:n]
		f(record[ringHead:])
		clear(record) // so that a record of the next lap is not taken for whole before it is
		r.read += n
		if r.read-r.taken.Load() >= r.size/8 {
			r.taken.Store(r.read)
		}
	}
	r.taken.Store(r.read)
	return nil
}

// Close gives everything back. Nobody may be reading.
func (r *ring) Close() {
	for _, b := range [][]byte{r.memory, r.waker.consumer, r.waker.producer} {
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
