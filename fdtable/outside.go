package fdtable

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

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
	wanted := map[string]bool{}
	for _, d := range c.descs {
		if d.Pipe != 0 || instance(d.Kind) || sharable(d) {
			wanted[d.Path] = true
		}
	}
	c.learnFiles()
	if len(wanted) == 0 {
		return nil
	}
	if in.Outside == nil {
		in.Outside = holders.Of(c.st.Tree(), holders.Here(in.View))
	}
	found := map[string][]ref{}
	if err := in.Outside.Descriptors(ctx, wanted, func(pid, fd int, link string) {
		found[link] = append(found[link], ref{pid, fd})
	}); err != nil {
		return []*fault.Error{fault.New(fault.FDRead, "/proc", "look for other holders of descriptors: %w", err)}
	}
	for _, d := range c.ofKind(kindPipe, kindFIFO) {
		if by := found[d.Path]; len(by) > 0 && d.Pipe != 0 {
			c.outside(d, by[0].text())
		}
	}
	c.refuseUnread()
	c.sharedInstances(found)
	c.sharedFiles(found)
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

// instance tells whether what is behind a descriptor of the kind has no other name, so that sharing it means sharing
// the description.
func instance(kind string) bool {
	k := model.FDKindOf(kind)
	return k != nil && k.Instance
}

// sharedInstances refuses instances that a process outside the tree has too, by inheritance or because it was sent
// them. kcmp(2) puts all descriptions in one order, so that each of theirs is searched in ours.
func (c *capturer) sharedInstances(holders map[string][]ref) {
	byPath := map[string][]*desc{}
	for _, d := range c.descs {
		if instance(d.Kind) && len(holders[d.Path]) > 0 {
			byPath[d.Path] = append(byPath[d.Path], d)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(byPath)) {
		descs := byPath[path]
		order := func(a *desc, b ref) int { // what has gone away meanwhile is nobody's
			n, _ := compareFiles(ref{a.pid, a.fd}, b)
			return n
		}
		slices.SortFunc(descs, func(a, b *desc) int { return order(a, ref{b.pid, b.fd}) })
		told := map[*desc]bool{}
		for _, theirs := range holders[path] {
			i, ok := slices.BinarySearchFunc(descs, theirs, order)
			if !ok || told[descs[i]] {
				continue
			}
			if n, err := compareFiles(ref{descs[i].pid, descs[i].fd}, theirs); n == 0 && err == nil {
				told[descs[i]] = true
				c.add(descs[i], descs[i].refuse(fault.FDState, "it is shared with %s, outside the tree", theirs.text()))
			}
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

// text names a descriptor of a process that need not be known to the user.
func (r ref) text() string {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", r.pid))
	if err != nil {
		return r.object()
	}
	return fmt.Sprintf("%s (%s)", r.object(), strings.TrimSpace(string(comm)))
}
