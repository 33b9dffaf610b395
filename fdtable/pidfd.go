package fdtable

import (
	"errors"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

var _ = register(kind{
	name: "pidfd", links: []string{"anon_inode:[pidfd]"}, flags: pidfdThread,
	capture: capturePidFD, open: openPidFD,
})

// pidfdThread is PIDFD_THREAD (include/uapi/linux/pidfd.h, Linux 6.9), which F_GETFL shows.
const pidfdThread = unix.O_EXCL

// capturePidFD records the process that a pidfd leads to (kernel/fork.c or fs/pidfs.c, pidfd_show_fdinfo). It must be
// of the tree: any other is another one by the time of the restore.
func capturePidFD(c *capturer, d *desc) error {
	info, err := c.ownInfo(d)
	if err != nil {
		return err
	}
	pid := 0
	for _, l := range info.Lines {
		switch l.Key {
		case "Pid":
			if pid, err = strconv.Atoi(l.Value); err != nil {
				return d.unknownLine(l)
			}
		case "NSpid": // the same in the namespaces below
		default:
			return d.unknownLine(l)
		}
	}
	leads := func(p model.Process) bool { return p.Pid == pid }
	switch {
	case pid < 0:
		return refusePidFD(d, "a process that has ended and was waited for")
	case pid == 0:
		return refusePidFD(d, "a process of another pid namespace")
	case slices.ContainsFunc(c.st.Processes, leads):
		d.Of = &model.PidFD{Pid: pid}
		return nil
	case slices.ContainsFunc(c.st.Processes, func(p model.Process) bool {
		return slices.ContainsFunc(p.Threads, func(t model.Thread) bool { return t.Tid == pid })
	}):
		return refusePidFD(d, "thread %d, which is not the first of its process", pid)
	}
	return refusePidFD(d, "pid %d, which is not of the tree", pid)
}

func refusePidFD(d *desc, format string, args ...any) error {
	return d.refuse(fault.FDKind, "it is a pidfd of "+format, args...).WithRemedy("let the program close it first")
}

// openPidFD makes a pidfd of what the process became.
func openPidFD(b *builder, f *model.File) (int, error) {
	of, ok := f.Of.(*model.PidFD)
	if !ok {
		return -1, fault.New(fault.FDRecord, fileObject(f), "a pidfd without a process")
	}
	pid := of.Pid
	if b.o.Pid != nil {
		pid = b.o.Pid(pid)
	}
	fd, err := unix.PidfdOpen(pid, int(f.Flags&(pidfdThread|unix.O_NONBLOCK)))
	if errors.Is(err, unix.EINVAL) && f.Flags&pidfdThread != 0 {
		err = errors.New("this kernel has no PIDFD_THREAD (Linux 6.9 has)")
	}
	if err != nil {
		return -1, fault.New(fault.FDRebuild, fileObject(f), "make it: %w", err)
	}
	return b.checkFlags(f, fd)
}
