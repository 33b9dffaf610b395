package fdtable

import (
	"encoding/binary"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

const kindEventFD = "eventfd"

var _ = register(kind{
	name: kindEventFD, links: []string{"anon_inode:[eventfd]"}, capture: captureEventFD, open: openEventFD,
})

// captureEventFD records the counter of an eventfd as its fdinfo tells it (fs/eventfd.c, eventfd_show_fdinfo).
func captureEventFD(c *capturer, d *desc) error {
	info, err := c.ownInfo(d)
	if err != nil {
		return err
	}
	state := &model.EventFD{}
	d.Of = state
	counted := false
	for _, l := range info.Lines {
		switch l.Key {
		case "eventfd-count":
			state.Count, err = strconv.ParseUint(l.Value, 16, 64)
			counted = true
		case "eventfd-semaphore":
			state.Semaphore, err = strconv.ParseBool(l.Value)
		case "eventfd-id": // a number for people
		default:
			return d.unknownLine(l)
		}
		if err != nil {
			return d.unknownLine(l)
		}
	}
	if !counted {
		return d.refuse(fault.FDInfo, "its fdinfo does not tell the count")
	}
	// Kernels before 6.5 do not show whether it is a semaphore; asking would change it.
	if !hasLine(info, "eventfd-semaphore") {
		return d.refuse(fault.FDState, "this kernel does not tell whether the eventfd is a semaphore (Linux 6.5 does)")
	}
	return nil
}

// openEventFD makes an eventfd with the same count.
func openEventFD(b *builder, f *model.File) (int, error) {
	state, ok := f.Of.(*model.EventFD)
	if !ok {
		return -1, fault.New(fault.FDRecord, fileObject(f), "an eventfd without a count")
	}
	flags := unix.EFD_CLOEXEC
	if state.Semaphore {
		flags |= unix.EFD_SEMAPHORE
	}
	fd, err := unix.Eventfd(0, flags)
	if err != nil {
		return -1, fault.New(fault.FDRebuild, fileObject(f), "make it: %w", err)
	}
	if state.Count != 0 {
		if _, err := unix.Write(fd, binary.NativeEndian.AppendUint64(nil, state.Count)); err != nil {
			_ = unix.Close(fd)
			return -1, fault.New(fault.FDRebuild, fileObject(f), "set the count %d: %w", state.Count, err)
		}
	}
	return b.checkFlags(f, fd)
}
