package restore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/stub"
	"github.com/bpfckpt/bpfckpt/model"
)

// process is one process being built.
type process struct {
	j               *journal
	tr              *ptrace.Tracer
	rec             *model.Process
	pid             int              // as we see it; in a pid namespace of its own it differs from rec.Pid
	kin             int              // the index of the plan's Births.Kin
	boot            uint64           // where the boot area is, 0 before there is one
	socket          int              // the number of the socket that descriptors come through
	lead            *ptrace.Thread   // the thread group leader
	threads         []*ptrace.Thread // by index of rec.Threads
	criticalSection map[int]uint64   // by tid: rseq_cs, where it is not 0
}

func (p *process) object() string { return fmt.Sprintf("pid %d", p.rec.Pid) }

// insn is the address of a `syscall` instruction in the process.
func (p *process) insn() uint64 {
	if p.boot != 0 {
		return p.boot + stub.Call
	}
	return stub.CodeAt + stub.Call
}

// call makes the leader execute one system call, as a step.
func (p *process) call(what string, nr uint64, args ...uint64) (int64, error) {
	if err := p.j.step(what); err != nil {
		return 0, err
	}
	result, err := p.lead.Call(p.insn(), nr, args...)
	if err != nil {
		return result, fmt.Errorf("%s in %s: %w", what, p.object(), err)
	}
	return result, nil
}

// stackOf returns an address on the stub's stack that is free to use: the code itself uses none.
func stackOf(p *process) uint64 {
	regs, err := p.lead.Regs()
	if err != nil {
		return 0 // the write to it fails and tells
	}
	return (regs.SP() - 1024) &^ 15
}

func createFault(pid int, err error) error {
	switch {
	case errors.Is(err, unix.EEXIST):
		if o, ok := lookup(pid); ok {
			return o.fault()
		}
		return fault.New(fault.PidTaken, fmt.Sprintf("id %d", pid), "clone3: %w", err)
	case errors.Is(err, unix.EPERM):
		return fault.New(fault.RestoreRights, fmt.Sprintf("pid %d", pid), "clone3 with set_tid: %w", err)
	case errors.Is(err, unix.EINVAL):
		return fault.New(fault.RestoreState, fmt.Sprintf("pid %d", pid),
			"clone3 with set_tid: %w (is the id above kernel.pid_max?)", err)
	}
	return fmt.Errorf("create pid %d: %w", pid, err)
}

// sizeofSigaction is the size of the kernel's struct sigaction: handler, flags, restorer, mask. All zero it is SIG_DFL.
const sizeofSigaction = 32

// clone_args (clone3(2), include/uapi/linux/sched.h, CLONE_ARGS_SIZE_VER1 and later).
const cloneArgsSize = 88

// cloneArgs returns 256 bytes: struct clone_args with one id in set_tid, which points to setTid, and zeros behind it.
// With setTid 0 the kernel chooses the id.
func cloneArgs(flags, exitSignal, setTid uint64) []byte {
	b := make([]byte, 256)
	for i, v := range map[int]uint64{0: flags, 4: exitSignal, 8: setTid, 9: min(setTid, 1)} {
		binary.LittleEndian.PutUint64(b[8*i:], v)
	}
	return b
}
