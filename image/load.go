package image

import (
	"context"
	"sync"
	"sync/atomic"
)

// Load delivers every data page of a space to sink: addr is the address of the first page in data. It calls sink from up to
// workers goroutines at once (0: one for each CPU, at most 8), in no order, with runs of at most 1 MiB, only after the frame's
// checksum was found right. data is valid until sink returns and must not be changed. The first error of sink or ctx ends it and
// is returned as it is; otherwise the faults are E_IMAGE_*.
func (r *Reader) Load(ctx context.Context, space Space, n int, sink func(addr uint64, data []byte) error) error {
	return r.LoadParts(ctx, space, []Range{{Start: 0, End: ^uint64(0)}}, n, sink)
}

// parallel calls do for the jobs 0 to jobs-1, in about this order, from up to n goroutines with a frameReader each, until one
// fails or ctx ends.
func (r *Reader) parallel(ctx context.Context, jobs, n int, do func(fr *frameReader, job int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(workers(n), jobs) {
		wg.Go(func() {
			fr := &frameReader{r: r}
			defer fr.close()
			for ctx.Err() == nil {
				job := int(next.Add(1)) - 1
				if job >= jobs {
					return
				}
				if err := do(fr, job); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
