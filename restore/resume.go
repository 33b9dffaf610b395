package restore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// finisher makes of a process that has all the one that goes on.
type finisher struct {
	descriptors *descriptors
	clocks      *clocks
	timers      *timers
	signals     *signals
}

// finish does everything that must come after the rest and leaves each thread in a stop from which it goes on as the
// thread of the image.
func (f *finisher) finish(p *process) error {
	if err := f.afterCreds(p); err != nil {
		return err
	}
	if err := f.timers.set(p); err != nil {
		return err
	}
	if err := f.signals.queue(p); err != nil {
		return err
	}
	if err := p.limitPending(); err != nil {
		return err
	}
	for i := len(p.threads) - 1; i >= 0; i-- { // the leader last: it removes the boot area
		if err := f.thread(p, i); err != nil {
			return fmt.Errorf("thread %d: %w", p.rec.Threads[i].Tid, err)
		}
	}
	return f.signals.stop(p)
}

// afterCreds restores what a change of credentials would undo or what records them: dumpable, owners and locks of
// descriptors, and limits, which hold from here on.
func (f *finisher) afterCreds(p *process) error {
	b := p.batch(p.lead)
	switch p.rec.MM.Dumpable {
	case 0, 1:
		b.call("set dumpable", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, p.rec.MM.Dumpable)
	default:
		return fault.New(fault.RestoreState, p.object(), "dumpable is %d, which only the kernel can set",
			p.rec.MM.Dumpable)
	}
	for _, s := range f.descriptors.table().Steps(p.rec.Pid) {
		b.callWant(stepVerdict(s), s.Want, s.Call, stepArguments(s)...)
	}
	if err := p.limit(b); err != nil {
		return err
	}
	return b.done()
}

func stepArguments(s fdtable.Step) []any {
	var args []any
	for _, a := range s.Args {
		args = append(args, a)
	}
	if s.Data != nil {
		args = append(args, inBytes(s.Data))
	}
	return args
}

// stepVerdict forgives a step the error it may fail with; nil stands for any success.
func stepVerdict(s fdtable.Step) func(int64) error {
	if s.Ignore == 0 {
		return nil
	}
	return func(result int64) error {
		if err := errnoOf(result); err != nil && !errors.Is(err, s.Ignore) {
			return err
		}
		return nil
	}
}

func (f *finisher) thread(p *process, i int) error {
	rec, th := &p.rec.Threads[i], p.threads[i]
	regs, err := ptrace.RegsFrom(rec.Regs)
	if err != nil {
		return err
	}
	if err := th.SetSigMask(^uint64(0)); err != nil {
		return err
	}
	if err := p.lastCalls(i); err != nil {
		return err
	}
	if rec.Restart != nil && rec.Restart.Kind == model.RestartWait {
		if err := p.goOn(rec, &regs); err != nil {
			return err
		}
	} else if rec.Restart != nil {
		if err := f.reenter(p, th, rec, &regs); err != nil {
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
	return p.lastRegisters(th, rec, &regs)
}

// lastRegisters sets the extended state, the registers and the mask, and puts back what the kernel writes to while we
// work.
func (p *process) lastRegisters(th *ptrace.Thread, rec *model.Thread, regs *ptrace.Regs) error {
	if err := p.j.step("set registers"); err != nil {
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
func (p *process) lastCalls(i int) error {
	th := p.threads[i]
	do := func(what string, data []byte, nr uint64, args func(at uint64) []uint64) error {
		at := p.boot + bootData
		if err := p.j.step(what); err != nil {
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
func (p *process) goOn(rec *model.Thread, regs *ptrace.Regs) error {
	if !regs.InTimedWait() {
		return fault.New(fault.RestoreState, p.object(), "thread %d is to go on waiting, and is in no call that waits",
			rec.Tid)
	}
	text := regs.GoOn(rec.Restart.Left, rec.Restart.Addr)
	if text == nil {
		return nil
	}
	if err := p.j.step("write a timeout"); err != nil {
		return err
	}
	if _, err := ptrace.WriteMemory(p.pid, []ptrace.Range{{Addr: rec.Restart.Addr, Len: len(text)}}, text); err != nil {
		return fmt.Errorf("write the timeout of thread %d: %w", rec.Tid, err)
	}
	return nil
}
