package restore

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/model"
)

// content is what the spaces of an image hold. It may be used concurrently.
type content struct {
	ctx context.Context
	img *image.Reader
}

// workers is how many goroutines fill memory.
func workers() int { return min(4, runtime.GOMAXPROCS(0)) }

// load gives write the pages of a space that lie in parts, which are ascending and disjoint, from several goroutines.
func (c content) load(space model.Space, parts []model.Range, write func(addr uint64, data []byte) error) error {
	return c.img.LoadParts(c.ctx, space, parts, workers(), write)
}

// fill writes a space to a file of size bytes. What the image does not hold stays a hole.
func (c content) fill(f *os.File, space model.Space, size int64) error {
	return c.img.Load(c.ctx, space, workers(), func(off uint64, data []byte) error {
		if int64(off) >= size {
			return fmt.Errorf("content at %d of %d bytes: %w", off, size, unix.EFBIG)
		}
		inside := data[:min(int64(len(data)), size-int64(off))]
		if _, err := f.WriteAt(inside, int64(off)); err != nil {
			return err
		}
		if rest := data[len(inside):]; len(bytes.Trim(rest, "\x00")) > 0 {
			return fdtable.WriteBeyond(f, size, rest[:min(len(rest), int(pageSize-size%pageSize))])
		}
		return nil
	})
}
