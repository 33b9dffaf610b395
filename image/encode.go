package image

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
)

// encoder turns buffers of pages into frames of a data file, in the order they were handed in, with workers that
// compress in parallel. Memory: each worker has one buffer at work and one waiting, and its compressor's tables.
type encoder struct {
	file DraftFile
	jobs chan job
	free chan []byte
	wg   sync.WaitGroup

	mu     sync.Mutex
	turn   sync.Cond // signalled when the next frame may be placed
	frames []frame
	err    error
}

// job is one frame to be encoded.
type job struct {
	index int
	buf   []byte
	of    *loan // whose memory buf is, nil for a buffer of ours
}

// newFrameEncoder starts n workers that write frames to file.
func newFrameEncoder(file DraftFile, level Level, n int) (*encoder, error) {
	e := &encoder{file: file, jobs: make(chan job, n), free: make(chan []byte, 2*n)}
	e.turn.L = &e.mu
	compressors := make([]*zstd.Encoder, n)
	for i := range n {
		c, err := newEncoder(level)
		if err != nil {
			return nil, fmt.Errorf("make a compressor: %w", err)
		}
		compressors[i] = c
	}
	for range cap(e.free) {
		e.free <- nil // allocated when first used: small images need only one
	}
	for _, c := range compressors {
		e.wg.Go(func() { e.work(c) })
	}
	return e, nil
}

// buffer returns an empty buffer for a frame, waiting for one if the workers are behind.
func (e *encoder) buffer() []byte {
	b := <-e.free
	if b == nil {
		b = make([]byte, 0, maxFrame)
	}
	return b[:0]
}

// submit hands in a buffer as the frame with the given index; indices come without gaps.
func (e *encoder) submit(index int, buf []byte) { e.jobs <- job{index: index, buf: buf} }

// submitLent hands in memory of the caller's as a frame.
func (e *encoder) submitLent(index int, buf []byte, of *loan) {
	of.left.Add(1)
	e.jobs <- job{index, buf, of}
}

// loan is memory of the caller's that frames are made of.
type loan struct {
	left atomic.Int64 // frames that need it, and the call that hands it over
	done func()
}

// release tells that one user less needs the memory.
func (l *loan) release() {
	if l.left.Add(-1) == 0 && l.done != nil {
		l.done()
	}
}

// failed returns the first error of a worker.
func (e *encoder) failed() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// close waits for the workers and returns the frames.
func (e *encoder) close() ([]frame, error) {
	close(e.jobs)
	e.wg.Wait()
	return e.frames, e.err
}

// work is a worker's life.
func (e *encoder) work(c *zstd.Encoder) {
	var out []byte
	for j := range e.jobs {
		stored, how := encodeFrame(c, out, j.buf)
		if how == codecZstd {
			out = stored
		}
		offset, ok := e.place(j.index, frame{codec: how, stored: uint32(len(stored)), raw: uint32(len(j.buf))})
		if ok {
			sum := xxhash.Sum64(stored)
			_, err := e.file.WriteAt(stored, int64(offset))
			if f, ok := e.file.(*os.File); ok {
				startWriteback(f, int64(offset), int64(len(stored)))
			}
			e.finish(j.index, sum, err)
		}
		if j.of != nil {
			j.of.release()
			continue
		}
		e.free <- j.buf
	}
	if c != nil {
		_ = c.Close() // it has no stream to flush
	}
}

// place waits until all earlier frames have their place and gives this one its own. It reports false once anything
// failed.
func (e *encoder) place(index int, f frame) (uint64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.frames) != index { // an earlier frame is with another worker, which needs nothing from this one
		e.turn.Wait()
	}
	end := uint64(dataStart)
	if index > 0 {
		end = e.frames[index-1].end()
	}
	f.offset = place(end, f.codec)
	e.frames = append(e.frames, f)
	e.turn.Broadcast()
	return f.offset, e.err == nil
}

// finish records the outcome of a write.
func (e *encoder) finish(index int, sum uint64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.frames[index].sum = sum
	if err != nil && e.err == nil {
		e.err = err
	}
}
