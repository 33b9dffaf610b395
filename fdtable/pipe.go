package fdtable

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

const kindPipe = "pipe"

var _ = register(kind{
	name: kindPipe, capture: capturePipe, open: openPipe,
	is: func(d *desc) bool { return d.hasType(unix.S_IFIFO) && strings.HasPrefix(d.Path, "pipe:[") },
})

// capturePipe records one end of a pipe or FIFO. Contents are read later, once all ends are known.
func capturePipe(c *capturer, d *desc) error {
	fd, err := c.dup(d)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := c.captureOwner(d, fd); err != nil {
		return err
	}
	path := ""
	if d.Kind == kindFIFO {
		_, ok, err := c.named(d)
		if err == nil && !ok {
			ok, err = c.captureRemoved(d)
		}
		if path = d.Path; err != nil {
			return err
		}
		if !ok {
			return d.refuse(fault.FDDeleted, "the FIFO %s was removed or its name leads elsewhere now", d.Path)
		}
	}
	if d.Pipe = c.pipes[fileKey{d.Dev, d.Ino}]; d.Pipe == 0 {
		size, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
		if err != nil {
			return d.refuse(fault.FDRead, "read its capacity: %w", err)
		}
		c.st.Pipes = append(c.st.Pipes, model.Pipe{Ino: d.Ino, Capacity: size, Path: path})
		c.contents = append(c.contents, pipeContent{})
		d.Pipe = len(c.st.Pipes)
		c.pipes[fileKey{d.Dev, d.Ino}] = d.Pipe
	}
	return c.pipeEnd(d, fd)
}

// pipeContent is what is known of the content of a pipe before all its ends have been seen.
type pipeContent struct {
	reader          *desc // who could read it, nil if nobody
	lengths         []int // what each read gave
	left            int   // bytes in it, as an end for writing tells
	writers, direct int   // ends for writing, and how many of them write packets
}

// pipeEnd takes note of one end, whose duplicate is fd, and copies the content if it is the first that can read.
func (c *capturer) pipeEnd(d *desc, fd int) (err error) {
	content := &c.contents[d.Pipe-1]
	if writable(d.File) {
		content.writers++
		if d.Flags&unix.O_DIRECT != 0 {
			content.direct++
		}
	}
	if !readable(d.File) {
		if content.left, err = unix.IoctlGetInt(fd, unix.TIOCINQ); err != nil {
			return d.refuse(fault.FDRead, "ask how much it holds: %w", err)
		}
	}
	if readable(d.File) && content.reader == nil {
		content.reader = d
		if !c.in.Running {
			content.lengths, err = c.readPipe(d, fd, &c.st.Pipes[d.Pipe-1])
		}
	}
	return err
}

// settlePackets decides, now that all ends are known, whether the contents of pipes are packets.
func (c *capturer) settlePackets() {
	for i := range c.contents {
		p := &c.contents[i]
		if p.reader == nil {
			c.st.Pipes[i].Unread = p.left
		}
		switch {
		case len(p.lengths) == 0:
		case p.direct > 0 && p.direct == p.writers:
			c.st.Pipes[i].Packets = p.lengths
		case p.direct > 0 || len(p.lengths) > 1:
			c.add(p.reader, p.reader.refuse(fault.FDState, "it holds a mixture of packets (O_DIRECT) and plain data"))
		}
	}
}

// fileKey identifies an inode.
type fileKey struct{ dev, ino uint64 }

// readPipe duplicates the content into a scratch pipe with tee(2) and reads it from there. It returns how much each
// read gave.
func (c *capturer) readPipe(d *desc, fd int, p *model.Pipe) ([]int, error) {
	left, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return nil, d.refuse(fault.FDRead, "ask how much it holds: %w", err)
	}
	if left == 0 {
		return nil, nil
	}
	err = c.scratch.resize(p.Capacity)
	if errors.Is(err, unix.EPERM) {
		return nil, d.refuse(fault.FDState,
			"its capacity, %d bytes, is more than this command may give a pipe (fs.pipe-max-size)", p.Capacity).
			WithRemedy("raise it: sysctl fs.pipe-max-size=%d", p.Capacity)
	}
	if err != nil {
		return nil, d.refuse(fault.FDRead, "make a pipe of %d bytes to copy its content to: %w", p.Capacity, err)
	}
	n, err := unix.Tee(fd, c.scratch.w, p.Capacity, unix.SPLICE_F_NONBLOCK)
	if err == nil && int(n) != left {
		err = fmt.Errorf("%d of %d bytes copied", n, left)
	}
	if err != nil {
		return nil, d.refuse(fault.FDRead, "copy its content: %w", err)
	}
	data, lengths, err := drain(c.scratch.r, int(n))
	if err != nil {
		return nil, d.refuse(fault.FDRead, "read its content: %w", err)
	}
	p.Data = data
	return lengths, nil
}

// scratch is a pipe to copy others to. It has one slot for each of theirs, however little each slot holds.
type scratch struct{ r, w, size int }

// resize makes the pipe if there is none, and gives it the capacity. It is empty before and after.
func (s *scratch) resize(size int) error {
	if s.size == size {
		return nil
	}
	if s.size == 0 {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			return err
		}
		s.r, s.w, s.size = fds[0], fds[1], 1
	}
	_, err := unix.FcntlInt(uintptr(s.w), unix.F_SETPIPE_SZ, size)
	if err == nil {
		s.size = size
	}
	return err
}

func (s *scratch) close() {
	if s.size != 0 {
		_, _ = unix.Close(s.r), unix.Close(s.w)
	}
}

// drain reads n bytes and notes how many each read(2) gave: a packet ends a read.
func drain(fd, n int) (data []byte, lengths []int, err error) {
	data = make([]byte, n)
	for off := 0; off < n; {
		m, err := unix.Read(fd, data[off:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if m == 0 {
			return nil, nil, fmt.Errorf("%d of %d bytes read", off, n)
		}
		lengths = append(lengths, m)
		off += m
	}
	return data, lengths, nil
}

// pipeEnds is a rebuilt pipe: the descriptors that made it, and whether the image's descriptions have taken them.
type pipeEnds struct {
	fd    [2]int // for reading and for writing
	taken [2]bool
}

// openPipe opens one more end of a pipe that is made when its first end is asked for.
func openPipe(b *builder, f *model.File) (int, error) {
	return b.openEnd(f, func() (*pipeEnds, error) {
		var e pipeEnds
		err := unix.Pipe2(e.fd[:], unix.O_CLOEXEC|unix.O_NONBLOCK)
		return &e, err
	})
}

// openEnd opens an end of the pipe that create makes, and which is then set up and filled. What pipe2(2) returns shows
// no O_LARGEFILE, what open(2) returns does: so we know which descriptions were the first two.
func (b *builder) openEnd(f *model.File, create func() (*pipeEnds, error)) (int, error) {
	if f.Pipe < 1 || f.Pipe > len(b.st.Pipes) {
		return -1, fault.New(fault.FDRecord, fileObject(f), "it names pipe %d of %d", f.Pipe, len(b.st.Pipes))
	}
	ends := b.pipes[f.Pipe]
	if ends == nil {
		var err error
		if ends, err = create(); err != nil {
			return -1, asFault(err, fault.FDRebuild, fileObject(f))
		}
		b.table.extra = append(b.table.extra, ends.fd[:]...)
		if err := fillPipe(ends.fd[1], &b.st.Pipes[f.Pipe-1]); err != nil {
			return -1, fault.New(fault.FDRebuild, fileObject(f), "%w", err)
		}
		b.pipes[f.Pipe] = ends
	}
	i := 0
	if !readable(f) {
		i = 1
	}
	original := f.Kind == kindPipe && f.Flags&largeFile == 0 && f.Flags&accMode != unix.O_RDWR
	if !original || ends.taken[i] {
		return b.reopen(f, ends.fd[i])
	}
	ends.taken[i] = true
	return b.original(f, ends.fd[i])
}

// fillPipe gives a new pipe its capacity and what had not been read.
func fillPipe(fd int, p *model.Pipe) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, p.Capacity); err != nil {
		return fmt.Errorf("set the capacity %d: %w", p.Capacity, err)
	}
	if p.Packets == nil {
		return writePipe(fd, p.Data)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK|unix.O_DIRECT); err != nil {
		return fmt.Errorf("set packet mode: %w", err)
	}
	rest := p.Data
	for _, n := range p.Packets {
		if n <= 0 || n > len(rest) {
			return fmt.Errorf("packet lengths do not add up to %d bytes", len(p.Data))
		}
		if err := writePipe(fd, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if len(rest) != 0 {
		return fmt.Errorf("packet lengths do not add up to %d bytes", len(p.Data))
	}
	return nil
}

func writePipe(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("put the content back: %w", err)
		}
		data = data[n:]
	}
	return nil
}
