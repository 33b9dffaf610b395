package fdtable

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

const kindFIFO = "fifo"

var _ = register(kind{
	name: kindFIFO, capture: capturePipe, open: openFIFO,
	is: func(d *desc) bool { return d.hasType(unix.S_IFIFO) && !strings.HasPrefix(d.Path, "pipe:[") },
})

// openFIFO opens one more end of a named FIFO. The first opening is for reading and writing, which never blocks
// (fifo(7)).
func openFIFO(b *builder, f *model.File) (int, error) {
	return b.openEnd(f, func() (*pipeEnds, error) {
		fd, err := b.fifoBothWays(f)
		if err != nil {
			return nil, err
		}
		left, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		if err == nil && left != 0 {
			err = fault.New(fault.FileChanged, f.Path, "another program has the FIFO open and wrote to it")
		}
		if err != nil {
			_ = unix.Close(fd)
			return nil, err
		}
		other, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			_ = unix.Close(fd)
			return nil, err
		}
		return &pipeEnds{fd: [2]int{fd, other}}, nil
	})
}

// fifoBothWays opens the FIFO for reading and writing.
func (b *builder) fifoBothWays(f *model.File) (int, error) {
	if f.Removed != nil {
		made, err := b.removed(f)
		if err != nil {
			return -1, err
		}
		return unix.FcntlInt(uintptr(made), unix.F_DUPFD_CLOEXEC, 3)
	}
	if err := b.checkNamed(f); err != nil {
		return -1, err
	}
	return b.o.View.Open(f.Path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW)
}
