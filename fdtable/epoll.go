package fdtable

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

const kindEpoll = "epoll"

var _ = register(kind{
	name: kindEpoll, links: []string{"anon_inode:[eventpoll]"}, capture: captureEpoll, open: openEpoll,
	steps: (*Table).epollSteps,
})

// captureEpoll records what an epoll instance watches (fs/eventpoll.c, ep_show_fdinfo). An entry is known by a
// description and the number it had when it was added, which may since have been closed, or be another's.
func captureEpoll(c *capturer, d *desc) error {
	info, err := c.ownInfo(d)
	if err != nil {
		return err
	}
	state := &model.Epoll{}
	d.Of = state
	seen := map[int]int{} // entries so far under each number
	for _, l := range info.Lines {
		t, err := parseTarget(l)
		if err != nil {
			return d.refuse(fault.FDInfo, "%w", err)
		}
		if t.Events&unix.EPOLLONESHOT != 0 && t.Events&^epollPrivate == 0 {
			return d.refuse(fault.FDState, "its one-shot entry for descriptor %d has fired and was not armed again",
				t.FD)
		}
		if t.File, err = c.findTarget(d, t.FD, seen[t.FD]); err != nil {
			return err
		}
		seen[t.FD]++
		state.Targets = append(state.Targets, t)
	}
	return nil
}

// epollPrivate are the bits of an entry that are no events (EP_PRIVATE_BITS, fs/eventpoll.c).
const epollPrivate = unix.EPOLLWAKEUP | unix.EPOLLONESHOT | (unix.EPOLLET & 0xffffffff) | unix.EPOLLEXCLUSIVE

// parseTarget parses "tfd:        7 events:       19 data:           5a3e48  pos:0 ino:40e sdev:10".
func parseTarget(l procfs.Line) (model.EpollTarget, error) {
	var t model.EpollTarget
	n, err := fmt.Sscanf(l.Value, "%d events: %x data: %x", &t.FD, &t.Events, &t.Data)
	if l.Key != "tfd" || err != nil || n != 3 {
		return t, fmt.Errorf("its fdinfo has the unknown line %q", l.Key+":"+l.Value)
	}
	return t, nil
}

// findTarget finds the description behind entry nth of those added under number num: normally it still has that number.
func (c *capturer) findTarget(d *desc, num, nth int) (int, error) {
	for _, r := range d.refs {
		file, ok := c.fileAt(ref{r.pid, num})
		if !ok {
			continue
		}
		same, err := sameEpollTarget(r.pid, num, d.pid, d.fd, num, nth)
		if err != nil {
			return 0, d.refuse(fault.FDState, "find out what it watches as descriptor %d: %w", num, err)
		}
		if same {
			return file, nil
		}
	}
	return 0, d.refuse(fault.FDState, "it watches something that it was given as descriptor %d, which has been closed or means something else now", num)
}

// fileAt returns the ID of the description behind a descriptor.
func (c *capturer) fileAt(r ref) (int, bool) {
	if c.fileOf == nil {
		c.fileOf = map[ref]int{}
		for _, d := range c.descs {
			for _, at := range d.refs {
				c.fileOf[at] = d.ID
			}
		}
	}
	id, ok := c.fileOf[r]
	return id, ok
}

// openEpoll makes an empty instance. The processes fill it: the number under which something is added is part of its
// name.
func openEpoll(b *builder, f *model.File) (int, error) {
	state, ok := f.Of.(*model.Epoll)
	if !ok {
		return -1, fault.New(fault.FDRecord, fileObject(f), "an epoll instance without what it watches")
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, fault.New(fault.FDRebuild, fileObject(f), "make it: %w", err)
	}
	for _, t := range state.Targets {
		if pid, _ := b.table.adder(f, t); pid < 0 {
			_ = unix.Close(fd)
			return -1, fault.New(fault.FDRecord, fileObject(f),
				"no process has it together with descriptor %d, which it watches", t.FD)
		}
	}
	return b.checkFlags(f, fd)
}

// adder returns a process that has the epoll instance and, under the right number, what it is to watch; and its
// descriptor of the instance. -1 if there is none.
func (t *Table) adder(f *model.File, target model.EpollTarget) (pid, num int) {
	for i := range t.st.Processes {
		p := &t.st.Processes[i]
		at := slices.IndexFunc(p.FDs, func(fd model.FD) bool { return fd.File == f.ID })
		if at >= 0 && slices.ContainsFunc(p.FDs,
			func(fd model.FD) bool { return fd.Num == target.FD && fd.File == target.File }) {
			return p.Pid, p.FDs[at].Num
		}
	}
	return -1, -1
}

// epollSteps are the epoll_ctl(2) calls that are process pid's to make. A standard stream may have become something
// that cannot be waited for, a file or /dev/null; then nothing ever happens there.
func (t *Table) epollSteps(f *model.File, pid int) []Step {
	state, ok := f.Of.(*model.Epoll)
	if !ok {
		return nil
	}
	var steps []Step
	for _, target := range state.Targets {
		adder, num := t.adder(f, target)
		if adder != pid {
			continue
		}
		event := binary.NativeEndian.AppendUint32(nil, target.Events)
		event = append(event, make([]byte, epollEventGap)...)
		event = binary.NativeEndian.AppendUint64(event, target.Data)
		s := Step{
			Call: unix.SYS_EPOLL_CTL, Args: []uint64{uint64(num), unix.EPOLL_CTL_ADD, uint64(target.FD)}, Data: event,
			Want: fmt.Sprintf("watch descriptor %d with %s", target.FD, fileObject(f)),
		}
		if i := slices.IndexFunc(t.st.Files, func(o model.File) bool { return o.ID == target.File }); i >= 0 &&
			t.st.Files[i].Std != 0 {
			s.Ignore = unix.EPERM
		}
		steps = append(steps, s)
	}
	return steps
}
