package snapshot

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// parallelFrom is how much there must be to copy for a second worker to pay, bytes.
const parallelFrom = 8 << 20

// copier copies jobs, under the freeze.
type copier struct {
	ctx      context.Context
	deadline time.Time // zero for none
	started  time.Time
	next     atomic.Int64
	failed   atomic.Bool
}

// copyJobs fills the buffers of all jobs that have one, with several workers if that pays. It stops at the first error,
// at the deadline and when ctx is done.
func copyJobs(ctx context.Context, jobs []job, deadline time.Time) error {
	total := 0
	for i := range jobs {
		total += jobs[i].size
	}
	c := &copier{ctx: ctx, deadline: deadline, started: time.Now()}
	workers := 1
	if total >= parallelFrom {
		workers = min(2, runtime.GOMAXPROCS(0))
	}
	if workers == 1 {
		return c.work(jobs)
	}
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			defer ptrace.Hurry()()
			errs[i] = c.work(jobs)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *copier) work(jobs []job) error {
	var ranges []ptrace.Range
	for {
		i := int(c.next.Add(1)) - 1
		if i >= len(jobs) || c.failed.Load() {
			return nil
		}
		if jobs[i].buf == nil {
			continue
		}
		err := c.ctx.Err()
		if err == nil && !c.deadline.IsZero() && time.Now().After(c.deadline) {
			err = fault.New(fault.MaxFreeze, "", "after %d of %d parts of the memory were copied", i, len(jobs))
		}
		if err == nil {
			ranges, err = jobs[i].copy(jobs[i].buf, ranges)
		}
		if err != nil {
			c.failed.Store(true)
			return err
		}
	}
}

// copy fills buf with the job's parts. It returns scratch for the next one.
func (j *job) copy(buf []byte, scratch []ptrace.Range) ([]ptrace.Range, error) {
	if j.from.file != nil {
		return scratch, j.copyFile(buf)
	}
	var mem ptrace.Shared
	defer mem.Close()
	for parts := j.parts; len(parts) > 0; {
		n, size := 0, 0
		scratch = scratch[:0]
		for n < len(parts) && parts[n].forced == parts[0].forced {
			scratch = append(scratch, ptrace.Range{Addr: parts[n].addr, Len: parts[n].size})
			size += parts[n].size
			n++
		}
		if err := j.copyParts(&mem, scratch, buf[:size], parts[0].forced); err != nil {
			return scratch, err
		}
		parts, buf = parts[n:], buf[size:]
	}
	return scratch, nil
}

// copyParts copies through /proc/PID/mem what has to be read there, and what cannot be read otherwise.
func (j *job) copyParts(mem *ptrace.Shared, parts []ptrace.Range, buf []byte, forced bool) error {
	if !forced {
		done, err := ptrace.ReadMemory(j.from.pid, parts, buf)
		if err == nil {
			return nil
		}
		done &^= model.PageSize - 1
		for len(parts) > 0 && done >= parts[0].Len {
			buf, done, parts = buf[parts[0].Len:], done-parts[0].Len, parts[1:]
		}
		if len(parts) > 0 {
			parts[0].Addr, parts[0].Len, buf = parts[0].Addr+uint64(done), parts[0].Len-done, buf[done:]
		}
	}
	if err := mem.Read(j.from.pid, parts, buf); err != nil {
		return fault.New(fault.PageRead, j.from.name, "%w", err)
	}
	return nil
}

// copyFile reads from the object's file. What lies beyond its end, in its last page, is memory too if a mapping shows
// it.
func (j *job) copyFile(buf []byte) error {
	at := 0
	for _, p := range j.parts {
		n, err := j.from.file.ReadAt(buf[at:at+p.size], int64(p.addr))
		if err != nil && (!errors.Is(err, io.EOF) || n <= p.size-model.PageSize) {
			return fault.New(fault.PageRead, j.from.name, "read %d bytes at %d: %w", p.size, p.addr, err)
		}
		if rest := buf[at+n : at+p.size]; len(rest) > 0 &&
			fdtable.ReadBeyond(j.from.file, int64(p.addr)+int64(n), rest) != nil {
			clear(rest)
		}
		at += p.size
	}
	return nil
}

// pageSink takes pages; image.Writer is one.
type pageSink interface {
	Write(space model.Space, addr uint64, data []byte) error
	Compare(space model.Space, addr uint64, data []byte, from model.Space, at uint64) error
}

// arenaSink is a pageSink for memory of the arena: the image makes frames of it without another copy, and it is given
// back after.
type arenaSink struct {
	to   *image.Writer
	from *arena
}

func (l arenaSink) Write(space model.Space, addr uint64, data []byte) error {
	return l.to.Lend(space, addr, data, func() { l.from.release(data) })
}

func (l arenaSink) Compare(space model.Space, addr uint64, data []byte, from model.Space, at uint64) error {
	defer l.from.release(data)
	return l.to.Compare(space, addr, data, from, at)
}

// write hands the content of a job, in data, to the image.
func (j *job) write(to pageSink, code *codeFiles, data []byte) error {
	at := 0
	for _, p := range j.parts {
		piece := data[at : at+p.size]
		var err error
		switch {
		case p.code != nil:
			err = code.write(to, j.from.space, p, piece)
		case j.from.parent != 0:
			err = to.Compare(j.from.space, p.addr, piece, j.from.parent, p.addr)
		default:
			err = to.Write(j.from.space, p.addr, piece)
		}
		if err != nil {
			return err
		}
		at += p.size
	}
	return nil
}

// interrupted turns the end of a context into the fault users see.
func interrupted(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		if !errors.Is(err, &fault.Error{Code: fault.Interrupt}) {
			return fault.New(fault.Interrupt, "snapshot", "%w", err)
		}
	}
	return err
}

// gone turns the errors of a process that was killed meanwhile into the fault that says so.
func gone(pid int, err error) error {
	if err != nil && errors.Is(err, unix.ESRCH) && !errors.Is(err, &fault.Error{Code: fault.TargetGone}) {
		return fault.New(fault.TargetGone, pidName(pid), "%w", err)
	}
	return err
}
