package image

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/bpfckpt/bpfckpt/model"
)

// Load delivers every data page of a space to sink: addr is the address of the first page in data. It calls sink from
// up to workers goroutines at once (0: one for each CPU, at most 8), in no order, with runs of at most 1 MiB, only
// after the frame's checksum was found right. data is valid until sink returns and must not be changed. The first error
// of sink or ctx ends it and is returned as it is; otherwise the faults are E_IMAGE_*.
func (r *Reader) Load(ctx context.Context, space model.Space, n int, sink func(addr uint64, data []byte) error) error {
	return r.LoadParts(ctx, space, []model.Range{{Start: 0, End: ^uint64(0)}}, n, sink)
}

// neighbours is the most jobs that a goroutine of parallel takes at once.
const neighbours = 8

// parallel calls do for the jobs 0 to jobs-1, in about this order, from up to n goroutines with a frameReader each,
// until one fails or ctx ends. Each takes a few neighbours at once, so that two of them rarely fill pages of the same
// page table, whose lock they would wait for.
func (r *Reader) parallel(ctx context.Context, jobs, n int, do func(fr *frameReader, job int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n = min(workers(n), jobs)
	few := max(1, min(jobs/(8*max(n, 1)), neighbours))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			fr := &frameReader{r: r}
			defer fr.close()
			for {
				end := int(next.Add(int64(few)))
				for job := end - few; job < end; job++ {
					if job >= jobs || ctx.Err() != nil {
						return
					}
					if err := do(fr, job); err != nil {
						cancel(err)
					}
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
