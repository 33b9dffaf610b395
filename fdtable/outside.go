package fdtable

import (
	"context"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/holders"
	"github.com/bpfckpt/bpfckpt/model"
)

// Finish does what needs no freeze: it looks for those outside the tree who hold pipes of it, or instances of kinds
// that exist only as descriptors. It is to run once after Capture, when the tree runs again and still lives; what it
// returns keeps the image from being committed. A pipe that someone outside holds is re-attached if it is a standard
// stream, and refused if it is not.
func Finish(ctx context.Context, in Input) []*fault.Error {
	c := newCapturer(in)
	c.learnFiles()
	held := in.Holders
	if held == nil {
		var err error
		if held, err = holders.Of(c.st.Tree(), holders.Here(in.View)).Holders(ctx, c.st.Shareable()); err != nil {
			return []*fault.Error{fault.New(fault.FDRead, "/proc", "look for other holders of descriptors: %w", err)}
		}
	}
	for _, d := range c.ofKind(kindPipe, kindFIFO) {
		if by := held[d.Object()]; len(by) > 0 && d.Pipe != 0 {
			c.outside(d, by[0].Text())
		}
	}
	c.refuseUnread()
	c.sharedInstances(held)
	c.sharedFiles(held)
	dropUnusedPipes(c.st)
	return c.faults
}

// refuseUnread refuses a FIFO with content that only ends for writing are open of: whoever opens it for reading next
// gets it, and to read it would be to open it, which lets go who waits for a reader. Of a pipe, which nobody can open,
// it is lost anyway.
func (c *capturer) refuseUnread() {
	for _, d := range c.ofKind(kindFIFO) {
		if d.Pipe == 0 || d.Std != 0 {
			continue
		}
		if left := c.st.Pipes[d.Pipe-1].Unread; left > 0 {
			c.add(d, d.refuse(fault.FDState, "it holds %d bytes, and nobody has it open for reading", left).
				WithRemedy("let somebody read from %s, or the program close it", d.Path))
		}
	}
}

// sharedInstances refuses what is nothing but a description, and a process outside the tree has it too, by inheritance
// or because it was sent it.
func (c *capturer) sharedInstances(held model.Holders) {
	for _, d := range c.descs {
		if by := held[d.Object()]; len(by) > 0 && d.Object().Kind == model.ObjectDescription {
			c.add(d, d.refuse(fault.FDState, "it is shared with %s, outside the tree", by[0].Text()))
		}
	}
}

// outside decides about an end of a pipe that by holds too.
func (c *capturer) outside(d *desc, by string) {
	if d.std == 0 {
		c.add(d, d.refuse(fault.FDPipe, "%s is also open in %s, outside the tree", d.Path, by))
		return
	}
	for _, other := range c.ofKind(kindPipe, kindFIFO) {
		if other.Path == d.Path && other.Flags&accMode != d.Flags&accMode {
			c.add(d, d.refuse(fault.FDPipe, "%s is open in the tree for reading and for writing, and in %s outside it",
				d.Path, by))
			return
		}
	}
	d.Std = d.std
}

// dropUnusedPipes forgets the pipes that are re-attached: their content is not the tree's alone.
func dropUnusedPipes(st *model.State) {
	used := make([]bool, len(st.Pipes))
	for i := range st.Files {
		f := &st.Files[i]
		if f.Pipe != 0 && f.Std != 0 {
			f.Pipe = 0
		}
		if f.Pipe != 0 {
			used[f.Pipe-1] = true
		}
	}
	index := make([]int, len(st.Pipes))
	var kept []model.Pipe
	for i := range st.Pipes {
		if used[i] {
			kept = append(kept, st.Pipes[i])
			index[i] = len(kept)
		}
	}
	st.Pipes = kept
	for i := range st.Files {
		if f := &st.Files[i]; f.Pipe != 0 {
			f.Pipe = index[f.Pipe-1]
		}
	}
}
