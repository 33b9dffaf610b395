package tracer

import (
	"github.com/cilium/ebpf"

	"github.com/bpfckpt/bpfckpt/internal/view"
)

// passes are loaded iterators: each method runs one over a thread group. They are not safe for concurrent use, and two
// passes of one set must not overlap.
type passes struct {
	view            *view.View
	task, vma, file *ebpf.Program
	mappedLast      *ebpf.Variable
	wait            *waitProgram
	buf             []byte // what the iterators write; grows to the largest pass
}

// threads reads the threads of one thread group and what they share, but mappings and descriptors. E_TARGET_GONE if
// there is none.
func (ps *passes) threads(pid int) (*rawProcess, error) {
	raw := &rawProcess{pid: pid}
	out, err := ps.read(ps.task, iterTarget{pid: uint32(pid)}, nil)
	if err == nil {
		err = raw.takeTask(out)
	}
	if err != nil {
		return nil, readFault(pid, err)
	}
	if raw.process == nil || len(raw.threads) == 0 {
		return nil, gone(pid)
	}
	return raw, nil
}

// mappings adds the mappings to raw, read through a thread that still has them.
func (ps *passes) mappings(raw *rawProcess) error {
	tid := raw.living()
	if tid == 0 {
		return gone(raw.pid)
	}
	if err := ps.mappedLast.Set(uint64(0)); err != nil {
		return readFault(raw.pid, err)
	}
	out, err := ps.read(ps.vma, iterTarget{tid: uint32(tid)}, ascending())
	if err == nil {
		err = raw.takeVMAs(out)
	}
	if err != nil {
		return readFault(raw.pid, err)
	}
	if len(raw.vmas) == 0 { // who has memory has mappings: the thread has given it up since
		return gone(raw.pid)
	}
	return nil
}

// descriptors adds the descriptors to raw.
func (ps *passes) descriptors(raw *rawProcess) error {
	tid := raw.living()
	if tid == 0 {
		return gone(raw.pid)
	}
	out, err := ps.read(ps.file, iterTarget{tid: uint32(tid)}, nil)
	if err == nil {
		err = raw.takeFDs(out)
	}
	if err != nil {
		return readFault(raw.pid, err)
	}
	return nil
}

func (ps *passes) read(prog *ebpf.Program, target iterTarget, more func(piece []byte) bool) (out []byte, err error) {
	out, ps.buf, err = readIter(prog.FD(), target, ps.buf, more)
	return out, err
}
