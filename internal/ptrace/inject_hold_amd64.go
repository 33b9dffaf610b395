package ptrace

import (
	"encoding/binary"
	"errors"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// Hold makes th execute do, calls while with the raw result, and then makes th execute undo: for something that is to
// exist only while we look at it. If we die in between, the thread makes the second call itself on its way back. while
// is called even if do failed; it may change the arguments of undo for what do really did. Neither call may have Data,
// and undo must be harmless if do failed. The error is that of while, or one of the mechanism as Inject has it.
func (in *Injector) Hold(th *Thread, do Syscall, undo *Syscall, while func(result int64) error) error {
	return in.g.t.Do(func() error {
		l, at, err := in.borrowHold(th, do, *undo)
		if err != nil {
			return err
		}
		err = l.callFrom(&do, at)
		if err == nil {
			err = while(do.Ret)
			err = errors.Join(err, l.call(undo))
		}
		return errors.Join(err, l.giveBack())
	})
}

// borrowHold is borrow with one more frame before the first: that of the second call, which leads on to the first
// frame. at is the stack pointer that leads there.
func (in *Injector) borrowHold(th *Thread, do, undo Syscall) (l *loan, at uint64, err error) {
	l, frame, status, err := in.look(th)
	if err != nil {
		return nil, 0, err
	}
	lead := alignFrame(uint64(8*len(l.code.finish) + sizeofUContext))
	size := lead + frame.size()
	if err = l.place(in, size, lead); err != nil {
		return nil, 0, err
	}
	if status.Seccomp == seccompFiltered {
		if err := l.checkFilters([]Syscall{do, undo}); err != nil {
			return nil, 0, err
		}
	}
	if err := l.layDown(frame, size); err != nil {
		return nil, 0, err
	}
	at = l.base
	step := signalFrame{regs: l.injected(undo.Nr, undo.Args), mask: ^uint64(0)}
	var memory []byte
	for _, w := range append(append([]uint64{}, l.code.finish...), step.ucontext(l.home+frame.xstateAt())...) {
		memory = binary.LittleEndian.AppendUint64(memory, w)
	}
	if _, err := WriteMemory(th.Pid, []Range{{at, len(memory)}}, memory); err != nil {
		return nil, 0, l.fail("write a frame", err)
	}
	return l, at, nil
}

// look reads the whole state of a thread, and whether it can be borrowed.
func (in *Injector) look(th *Thread) (l *loan, frame *signalFrame, status *procfs.Status, err error) {
	l = &loan{th: th, code: &in.code}
	if _, err := getRegset(th.Tid, regsetPRStatus, l.regs.Bytes()); err != nil {
		return nil, nil, nil, l.fail("read registers", err)
	}
	if l.mask, err = getSigMask(th.Tid); err != nil {
		return nil, nil, nil, l.fail("read the signal mask", err)
	}
	s, err := procfs.Task(th.Pid, th.Tid).Status()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := l.usable(&s); err != nil {
		return nil, nil, nil, err
	}
	if l.cs, err = readRseqSection(th, l.regs.Rip); err != nil {
		return nil, nil, nil, l.fail("read the rseq section", err)
	}
	frame, err = l.frame()
	return l, frame, &s, err
}
