package tracer

import (
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// oldNames are the names of calls that architectures which came later have in a more general form only.
var oldNames = map[uint16]string{
	unix.SYS_OPEN:         "open",
	unix.SYS_CREAT:        "creat",
	unix.SYS_DUP2:         "dup2",
	unix.SYS_EPOLL_CREATE: "epoll_create",
	unix.SYS_EVENTFD:      "eventfd",
	unix.SYS_INOTIFY_INIT: "inotify_init",
	unix.SYS_PIPE:         "pipe",
	unix.SYS_SIGNALFD:     "signalfd",
}

// oldOpen tells how open(2) or creat(2) opened a file; ok is false for another call.
func oldOpen(e *bpf.WatchEvFd) (how, create uint32, ok bool) {
	switch e.Head.Nr {
	case unix.SYS_OPEN:
		return uint32(e.Args[1]), uint32(e.Args[2]), true
	case unix.SYS_CREAT:
		return unix.O_CREAT | unix.O_WRONLY | unix.O_TRUNC, uint32(e.Args[1]), true
	}
	return 0, 0, false
}

// isDup2 tells whether a call is dup2(2).
func isDup2(nr uint16) bool { return nr == unix.SYS_DUP2 }

// Protections that only mprotect(2) of this architecture has, and the flags of mappings that it sets anew: none.
const (
	protMachine = 0
	vmMachine   = 0
)

// wideMode tells whether a thread runs 64-bit code: its code segment is __USER_CS (arch/x86/include/asm/segment.h).
func wideMode(cs uint32) bool { return cs == 0x33 }

// layoutTIF is where one kernel has the flags of struct thread_info that matter (arch/x86/include/asm/thread_info.h).
type layoutTIF struct{ fpuLoad, noCPUID, noTSC uint64 }

var layoutsTIF = []layoutTIF{
	{1 << 19, 1 << 20, 1 << 21}, // since Linux 6.18
	{1 << 14, 1 << 15, 1 << 16},
}

// faulting finds whether rdtsc and cpuid fault in a stopped thread. The bits moved between releases, and only their
// order is in BTF's reach: none. But a thread that does not run has its FPU registers in memory, so TIF_NEED_FPU_LOAD
// tells the layout.
func (b *builder) faulting(pid int, r *bpf.IterThreadRec, t *model.Thread) error {
	var found *layoutTIF
	var any uint64
	for i := range layoutsTIF {
		l := &layoutsTIF[i]
		any |= l.noCPUID | l.noTSC
		if found == nil && r.Tif&l.fpuLoad != 0 {
			found = l
		}
	}
	switch {
	case found != nil:
		t.TSCSignal, t.CPUIDFault = r.Tif&found.noTSC != 0, r.Tif&found.noCPUID != 0
	case r.Tif&any != 0:
		b.block(fault.ThreadState, threadOf(pid, r), "its flags %#x are laid out in a way this version does not know",
			r.Tif)
	}
	return nil
}
