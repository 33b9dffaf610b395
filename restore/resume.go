package restore

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// finalise does everything that must come after the rest and leaves each thread in a stop from which it goes on as the
// thread of the image.
func (r *restorer) finalise(p *process) error {
	if err := r.setAfterCreds(p); err != nil {
		return err
	}
	if err := r.setTimers(p); err != nil {
		return err
	}
	if err := r.queueSignals(p); err != nil {
		return err
	}
	if err := r.limitPending(p); err != nil {
		return err
	}
	for i := len(p.threads) - 1; i >= 0; i-- { // the leader last: it removes the boot area
		if err := r.finaliseThread(p, i); err != nil {
			return fmt.Errorf("thread %d: %w", p.rec.Threads[i].Tid, err)
		}
	}
	return r.stop(p)
}

func (r *restorer) finaliseThread(p *process, i int) error {
	rec, th := &p.rec.Threads[i], p.threads[i]
	regs, err := ptrace.RegsFrom(rec.Regs)
	if err != nil {
		return err
	}
	if err := th.SetSigMask(^uint64(0)); err != nil {
		return err
	}
	if err := r.lastCalls(p, i); err != nil {
		return err
	}
	if rec.Restart != nil && rec.Restart.Kind == model.RestartWait {
		if err := r.goOn(p, rec, &regs); err != nil {
			return err
		}
	} else if rec.Restart != nil {
		if err := r.reenter(p, th, rec, &regs); err != nil {
			return err
		}
	} else if _, result, ok := regs.Syscall(); ok && result == ptrace.RestartBlock {
		return fault.New(fault.RestoreState, p.object(),
			"thread %d is in a system call whose rest the image does not hold", rec.Tid)
	}
	if i == 0 {
		if _, err := p.call("remove the boot area", unix.SYS_MUNMAP, p.boot, plan.BootSize+plan.VDSORoom); err != nil {
			return err
		}
	}
	return r.lastRegisters(p, th, rec, &regs)
}

// lastRegisters sets the extended state, the registers and the mask, and puts back what the kernel writes to while we
// work.
func (r *restorer) lastRegisters(p *process, th *ptrace.Thread, rec *model.Thread, regs *ptrace.Regs) error {
	if err := r.j.step("set registers"); err != nil {
		return err
	}
	have, err := th.XState(nil)
	if err != nil {
		return err
	}
	xstate, err := fitXState(rec.XState, have)
	if err != nil {
		return fault.New(fault.OtherCPU, p.object(), "thread %d: %w", rec.Tid, err)
	}
	if err := th.SetXState(xstate); err != nil {
		return err
	}
	if rec.SUD.Mode != 0 {
		if err := th.SetSUD(ptrace.SUD(rec.SUD)); err != nil {
			return err
		}
	}
	if err := th.SetRegs(regs); err != nil {
		return err
	}
	if err := th.Settle(); err != nil {
		return err
	}
	if err := p.restoreCriticalSection(th, rec); err != nil {
		return err
	}
	return th.SetSigMask(rec.SigMask)
}

// rseqCS is the offset of rseq_cs in struct rseq (include/uapi/linux/rseq.h).
const rseqCS = 8

// restoreCriticalSection writes the thread's rseq_cs again. The kernel cleared it when our code ran outside of the
// section; with it back, the kernel finds on the way to user space that the section was interrupted and starts its
// abort handler, as it would have.
func (p *process) restoreCriticalSection(th *ptrace.Thread, rec *model.Thread) error {
	cs := p.criticalSection[rec.Tid]
	if cs == 0 {
		return nil
	}
	_, err := ptrace.WriteMemory(th.Pid, []ptrace.Range{{Addr: rec.Rseq.Ptr + rseqCS, Len: 8}},
		binary.LittleEndian.AppendUint64(nil, cs))
	return err
}

// rememberCriticalSections reads each thread's rseq_cs from the memory just filled, before rseq is registered and the
// kernel may clear it.
func (p *process) rememberCriticalSections() error {
	for i := range p.rec.Threads {
		t := &p.rec.Threads[i]
		if t.Rseq.Ptr == 0 {
			continue
		}
		var b [8]byte
		if _, err := ptrace.ReadMemory(p.pid, []ptrace.Range{{Addr: t.Rseq.Ptr + rseqCS, Len: 8}}, b[:]); err != nil {
			return fmt.Errorf("read the rseq area of thread %d: %w", t.Tid, err)
		}
		if cs := binary.LittleEndian.Uint64(b[:]); cs != 0 {
			if p.criticalSection == nil {
				p.criticalSection = map[int]uint64{}
			}
			p.criticalSection[t.Tid] = cs
		}
	}
	return nil
}

// lastCalls makes the calls that cannot be in a batch, whose end is a breakpoint: the action of SIGTRAP, and a pending
// one.
func (r *restorer) lastCalls(p *process, i int) error {
	th := p.threads[i]
	do := func(what string, data []byte, nr uint64, args func(at uint64) []uint64) error {
		at := p.boot + bootData
		if err := r.j.step(what); err != nil {
			return err
		}
		if _, err := ptrace.WriteMemory(p.pid, []ptrace.Range{{Addr: at, Len: len(data)}}, data); err != nil {
			return err
		}
		if _, err := th.Call(p.insn(), nr, args(at)...); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	if i == 0 {
		for j := range p.rec.Actions {
			a := &p.rec.Actions[j]
			if unix.Signal(a.Signal) != unix.SIGTRAP {
				continue
			}
			err := do("set the action of SIGTRAP", actionBytes(a), unix.SYS_RT_SIGACTION, func(at uint64) []uint64 {
				return []uint64{uint64(a.Signal), at, 0, sigsetSize}
			})
			if err != nil {
				return err
			}
		}
		for _, info := range p.rec.Pending {
			if signalOf(info) != unix.SIGTRAP {
				continue
			}
			err := do("queue SIGTRAP", info, unix.SYS_RT_SIGQUEUEINFO, func(at uint64) []uint64 {
				return []uint64{uint64(p.rec.Pid), uint64(unix.SIGTRAP), at}
			})
			if err != nil {
				return err
			}
		}
	}
	for _, info := range p.rec.Threads[i].Pending {
		if signalOf(info) != unix.SIGTRAP {
			continue
		}
		err := do("queue SIGTRAP", info, unix.SYS_RT_TGSIGQUEUEINFO, func(at uint64) []uint64 {
			return []uint64{uint64(p.rec.Pid), uint64(p.rec.Threads[i].Tid), uint64(unix.SIGTRAP), at}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sizeofTimespec is the size of struct timespec.
const sizeofTimespec = 16

// goOn makes the registers of a call with a timeout, which the snapshot would have ended, ones that make it again with
// the time that was left.
func (r *restorer) goOn(p *process, rec *model.Thread, regs *ptrace.Regs) error {
	if !regs.InTimedWait() {
		return fault.New(fault.RestoreState, p.object(), "thread %d is to go on waiting, and is in no call that waits",
			rec.Tid)
	}
	text := regs.GoOn(rec.Restart.Left, rec.Restart.Addr)
	if text == nil {
		return nil
	}
	if err := r.j.step("write a timeout"); err != nil {
		return err
	}
	if _, err := ptrace.WriteMemory(p.pid, []ptrace.Range{{Addr: rec.Restart.Addr, Len: len(text)}}, text); err != nil {
		return fmt.Errorf("write the timeout of thread %d: %w", rec.Tid, err)
	}
	return nil
}
