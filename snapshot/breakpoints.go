package snapshot

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
)

// Uprobes are breakpoints that the kernel writes into the code of every process that maps a file; the page becomes the
// process's own, as if it had changed it. Whoever the probe belongs to (a watch of ours on dlopen, bpftrace, perf), it
// is no part of the process: brought back without the probe, the breakpoint would kill it. Of a watch of ours we know
// the breakpoints, and take them out of the copy. For those of others, a page of code whose only differences from its
// file are breakpoints is taken for the file's.

// maxBreakpoints is how many breakpoints in a page can be probes; a page with more was filled by the program.
const maxBreakpoints = 64

// isCode tells whether uprobes can be in a mapping: it is private, of a file, and may be executed, but not written to.
func isCode(v *model.VMA) bool {
	return v.Kind == model.VMAFile && !v.Shared && v.Prot&unix.PROT_EXEC != 0 && v.Prot&unix.PROT_WRITE == 0
}

// onlyBreakpoints tells whether a page is its file's but for some breakpoints.
func onlyBreakpoints(page, file []byte) bool {
	n := 0
	for i := range page {
		if page[i] == file[i] {
			continue
		}
		if n++; !isBreakpoint(page, i) || n > maxBreakpoints*breakpointSize {
			return false
		}
	}
	return true
}

// codeFiles are the files of the code mappings of a snapshot, opened when needed.
type codeFiles struct {
	unlinked []*os.File
	open     map[inode]*os.File // nil for one that cannot be had
	points   map[inode][]int64  // offsets of breakpoints that are known to be no part of the process
}

// learn asks a source for its breakpoints; those of before stay if it tells of none.
func (c *codeFiles) learn(ctx context.Context, from *stateSource) error {
	points, err := from.breakpoints(ctx)
	if points != nil {
		c.points = points
	}
	return err
}

func (c *codeFiles) close() {
	for _, f := range c.open {
		if f != nil {
			_ = f.Close() // read only
		}
	}
}

// file returns the file of a mapping, nil if its name does not lead to it any more.
func (c *codeFiles) file(m *model.MappedFile) *os.File {
	if m.Unlinked > 0 && m.Unlinked <= len(c.unlinked) {
		return c.unlinked[m.Unlinked-1]
	}
	key := inode{m.Dev, m.Ino}
	if f, ok := c.open[key]; ok {
		return f
	}
	f, err := openSame(m)
	if err != nil {
		f = nil
	}
	if c.open == nil {
		c.open = map[inode]*os.File{}
	}
	c.open[key] = f
	return f
}

// write hands the pages of a part of code to the image, without those that are the file's.
func (c *codeFiles) write(to pageSink, space model.Space, p part, data []byte) error {
	f := c.file(&p.code.File)
	original := make([]byte, model.PageSize)
	for at := 0; at < p.size; at += model.PageSize {
		page := data[at : at+model.PageSize]
		addr := p.addr + uint64(at)
		if f != nil {
			n, _ := f.ReadAt(original, int64(p.code.Offset+addr-p.code.Start)) // short in the file's last page
			clear(original[n:])
			c.restore(&p.code.File, int64(p.code.Offset+addr-p.code.Start), page, original)
			if n > 0 && onlyBreakpoints(page, original) {
				continue
			}
		}
		if err := to.Write(space, addr, page); err != nil {
			return err
		}
	}
	return nil
}

// restore takes the known breakpoints out of a page at an offset of a file, which has original there.
func (c *codeFiles) restore(m *model.MappedFile, offset int64, page, original []byte) {
	for _, point := range c.points[inode{m.Dev, m.Ino}] {
		if at := point - offset; at >= 0 && at+breakpointSize <= int64(len(page)) {
			for i := int(at); i < int(at)+breakpointSize && isBreakpoint(page, i); i++ {
				page[i] = original[i]
			}
		}
	}
}
