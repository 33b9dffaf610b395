package tracer

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
)

// fixedSize is the size of the fixed part of each kind of record.
var fixedSize = map[bpf.IterRecKind]int{
	bpf.IterRecKindREC_PROCESS: sizeOf[bpf.IterProcessRec](),
	bpf.IterRecKindREC_THREAD:  sizeOf[bpf.IterThreadRec](),
	bpf.IterRecKindREC_MM:      sizeOf[bpf.IterMmRec](),
	bpf.IterRecKindREC_ACTIONS: sizeOf[bpf.IterActionsRec](),
	bpf.IterRecKindREC_CRED:    sizeOf[bpf.IterCredRec](),
	bpf.IterRecKindREC_TIMER:   sizeOf[bpf.IterTimerRec](),
	bpf.IterRecKindREC_VMA:     sizeOf[bpf.IterVmaRec](),
	bpf.IterRecKindREC_MAPPED:  sizeOf[bpf.IterMappedRec](),
	bpf.IterRecKindREC_FD:      sizeOf[bpf.IterFdRec](),
	bpf.IterRecKindREC_HELD:    sizeOf[bpf.WatchHeldRec](),
}

var (
	errRecord  = errors.New("a BPF record is damaged")
	errEndless = errors.New("it does not end")
)

// eachRecord calls f with the fixed part and the tail of every record in b. The slices are valid as long as b is.
func eachRecord(b []byte, f func(kind bpf.IterRecKind, fixed, tail []byte) error) error {
	for len(b) > 0 {
		head := recordOf[bpf.IterRecHead](b)
		if head == nil {
			return errRecord
		}
		kind := bpf.IterRecKind(head.Kind)
		size, ok := fixedSize[kind]
		tail := int(head.Tail)
		end := size + (tail+7)&^7
		if !ok || end > len(b) {
			return fmt.Errorf("%w: kind %d, %d bytes of tail, %d bytes left", errRecord, kind, tail, len(b))
		}
		if err := f(kind, b[:size], b[size:size+tail]); err != nil {
			return err
		}
		b = b[end:]
	}
	return nil
}

// maxPass bounds what one pass may write, bytes: 10 million mappings or descriptors. It is a net under the loop that
// reads.
const maxPass = 1 << 30

// readIter runs an iterator program over target and returns all it wrote, in buf, which grows as needed and is handed
// back. It ends early at a piece, as one read(2) returns it, that more does not want.
func readIter(prog int, target iterTarget, buf []byte, more func(piece []byte) bool) (out, grown []byte, err error) {
	fd, err := openIter(prog, target)
	if err != nil {
		return nil, buf, fmt.Errorf("open iterator: %w", err)
	}
	defer unix.Close(fd)
	n := 0
	for {
		if len(buf)-n < iterBufferSize {
			larger := wordBuffer(2*len(buf) + iterBufferSize)
			copy(larger, buf[:n])
			buf = larger
		}
		m, err := unix.Read(fd, buf[n:])
		switch {
		case err == unix.EINTR || err == unix.EAGAIN: // EAGAIN: the kernel paused after many tasks without output
			continue
		case err != nil:
			return nil, buf, fmt.Errorf("read iterator: %w", err)
		case n+m > maxPass:
			return nil, buf, fmt.Errorf("read iterator: %w", errEndless)
		case m == 0 || more != nil && !more(buf[n:n+m]):
			return buf[:n], buf, nil
		}
		n += m
	}
}

// ascending returns a function for readIter that wants pieces as long as mappings come in ascending order. The kernel's
// iterator over the mappings of one thread does not end once its output has filled a buffer: where it should end it
// finds the thread again, and goes on after the mapping at which the last buffer was full (kernel/bpf/task_iter.c,
// task_vma_seq_get_next; seen on Linux 6.18).
func ascending() func(piece []byte) bool {
	last := uint64(0)
	return func(piece []byte) bool {
		ok := true
		err := eachRecord(piece, func(kind bpf.IterRecKind, fixed, _ []byte) error {
			if kind != bpf.IterRecKindREC_VMA {
				return nil
			}
			v := recordOf[bpf.IterVmaRec](fixed)
			ok = ok && v.Start >= last
			last = v.End
			return nil
		})
		return ok || err != nil // whoever takes the records reports damaged ones
	}
}
