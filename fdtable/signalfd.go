package fdtable

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

const kindSignalFD = "signalfd"

var _ = register(kind{
	name: kindSignalFD, links: []string{"anon_inode:[signalfd]"}, capture: captureSignalFD, open: openSignalFD,
})

// captureSignalFD records the signals a signalfd takes (fs/signalfd.c, signalfd_show_fdinfo). The signals themselves
// are pending in the process.
func captureSignalFD(c *capturer, d *desc) error {
	info, err := c.ownInfo(d)
	if err != nil {
		return err
	}
	if len(info.Lines) != 1 {
		return d.refuse(fault.FDInfo, "its fdinfo has %d lines about it", len(info.Lines))
	}
	l := info.Lines[0]
	mask, err := strconv.ParseUint(l.Value, 16, 64)
	if err != nil || l.Key != "sigmask" {
		return d.unknownLine(l)
	}
	d.Of = &model.SignalFD{Mask: mask}
	return nil
}

func openSignalFD(b *builder, f *model.File) (int, error) {
	state, ok := f.Of.(*model.SignalFD)
	if !ok {
		return -1, fault.New(fault.FDRecord, fileObject(f), "a signalfd without signals")
	}
	var set unix.Sigset_t
	set.Val[0] = state.Mask
	fd, err := unix.Signalfd(-1, &set, unix.SFD_CLOEXEC)
	if err != nil {
		return -1, fault.New(fault.FDRebuild, fileObject(f), "make it: %w", err)
	}
	return b.checkFlags(f, fd)
}
