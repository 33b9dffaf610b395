package image

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// Load delivers every data page of a space to sink: addr is the address of the first page in data. It calls sink from up to
// workers goroutines at once (0: one for each CPU, at most 8), in no order, with runs of at most 1 MiB, only after the frame's
// checksum was found right. data is valid until sink returns and must not be changed. The first error of sink or ctx ends it and
// is returned as it is; otherwise the faults are E_IMAGE_*.
func (r *Reader) Load(ctx context.Context, space Space, n int, sink func(addr uint64, data []byte) error) error {
	runs := r.pages.of(space)
	idx := make([]uint32, 0, len(runs)) // data runs, by frame
	for i := range runs {
		if runs[i].frame != frameZero {
			idx = append(idx, uint32(i))
		}
	}
	slices.SortFunc(idx, func(a, b uint32) int {
		return cmp.Or(cmp.Compare(runs[a].frame, runs[b].frame), cmp.Compare(a, b))
	})
	var starts []int // of each frame's runs in idx
	for i := range idx {
		if i == 0 || runs[idx[i]].frame != runs[idx[i-1]].frame {
			starts = append(starts, i)
		}
	}
	ends := append(slices.Clone(starts), len(idx))
	return r.parallel(ctx, len(starts), n, func(fr *frameReader, job int) error {
		mine := idx[starts[job]:ends[job+1]]
		data, err := fr.read(runs[mine[0]].frame)
		if err != nil {
			return err
		}
		for _, i := range mine {
			from := int(runs[i].off) * PageSize
			to := from + int(runs[i].pages)*PageSize
			if err := sink(runs[i].addr, data[from:to:to]); err != nil {
				return err
			}
		}
		return nil
	})
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
