package image

import (
	"context"
	"sync"
)

// Verify reads every byte of the image and checks it: all files again, every frame, also those that no run names, and
// the padding between them. progress, if not nil, is told of the stored bytes of frames done, from one goroutine at a
// time. The faults are E_IMAGE_*; the error of ctx is returned as it is.
func (r *Reader) Verify(ctx context.Context, progress func(done, total int64)) error {
	again, err := openImage(r.store, r.from, r.rec.ID) // the files may have changed since Open
	if err != nil {
		return err
	}
	defer func() { _ = again.Close() }()
	return again.verifyFrames(ctx, again.pages.frames, 0, progress)
}

// verifyFrames checks the first frames of the map with n workers.
func (r *Reader) verifyFrames(ctx context.Context, frames []frame, n int, progress func(done, total int64)) error {
	var total, done int64
	for i := range frames {
		total += int64(frames[i].stored)
	}
	var mu sync.Mutex
	return r.parallel(ctx, len(frames), n, func(fr *frameReader, i int) error {
		if _, err := fr.read(uint32(i)); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		done += int64(frames[i].stored)
		if progress != nil {
			progress(done, total)
		}
		return nil
	})
}
