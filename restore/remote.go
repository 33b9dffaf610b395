package restore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/stub"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

const pageSize = model.PageSize

// Layout of the boot area, bytes from its start: a page of code, then records, then what their arguments point to.
const (
	bootRecords = pageSize
	maxRecords  = 1024
	bootData    = bootRecords + (maxRecords*stub.RecordSize+pageSize-1)&^(pageSize-1)
	dataRoom    = plan.BootSize - bootData
)

// batch is system calls to run inside one thread of a process, in order, with one stop. It runs when it is full and
// when flush is called; the first error ends it. The zero value is not usable; see process.batch.
type batch struct {
	p     *process
	th    *ptrace.Thread
	calls []batchCall
	data  []byte
	onNew func(id int) error // called for each process or thread that a call creates; nil if none does
	err   error
}

// batchCall is one record with what to think of its result.
type batchCall struct {
	what string // for the error: "mmap 0x1000-0x2000"
	nr   uint64
	args [6]uint64
	want func(result int64) error // nil: any result that is no errno
}

// in is an argument that points to bytes to be copied into the process; a string gets a NUL.
type (
	inBytes  []byte
	inString string
	// out is an argument that points to room of that many bytes, zeroed.
	out int
)

// batch begins a batch for a thread of the process.
func (p *process) batch(th *ptrace.Thread) *batch { return &batch{p: p, th: th} }

// call appends a system call. Arguments are integers, inBytes, inString or out; pointers are 16-byte aligned.
func (b *batch) call(what string, nr uint64, args ...any) { b.callWant(nil, what, nr, args...) }

// callWant is call with a judgement of the result: want gets the raw result and its error fails the batch.
func (b *batch) callWant(want func(int64) error, what string, nr uint64, args ...any) {
	if b.err != nil {
		return
	}
	need := 0
	for _, a := range args {
		need += pointed(a)
	}
	if need > dataRoom {
		b.err = fmt.Errorf("%s: %d bytes of arguments: %w", what, need, unix.E2BIG)
		return
	}
	if len(b.calls) == maxRecords || len(b.data)+need > dataRoom {
		b.flush()
	}
	c := batchCall{what: what, nr: nr, want: want}
	for i, a := range args {
		c.args[i] = b.argument(a)
	}
	b.calls = append(b.calls, c)
}

// pointed is the room that an argument takes in the data area.
func pointed(a any) int {
	n := 0
	switch v := a.(type) {
	case inBytes:
		n = len(v)
	case inString:
		n = len(v) + 1
	case out:
		n = int(v)
	}
	return (n + 15) &^ 15
}

func (b *batch) argument(a any) uint64 {
	switch v := a.(type) {
	case int:
		return uint64(v)
	case int32:
		return uint64(int64(v))
	case int64:
		return uint64(v)
	case uint32:
		return uint64(v)
	case uint64:
		return v
	}
	at := b.p.boot + bootData + uint64(len(b.data))
	grow := pointed(a)
	old := len(b.data)
	b.data = append(b.data, make([]byte, grow)...)
	switch v := a.(type) {
	case inBytes:
		copy(b.data[old:], v)
	case inString:
		copy(b.data[old:], v)
	case out:
	default:
		b.err = fmt.Errorf("batch: argument of type %T", a)
	}
	return at
}

// flush runs what has been collected.
func (b *batch) flush() {
	if b.err != nil || len(b.calls) == 0 {
		return
	}
	b.err = b.run()
	b.calls, b.data = b.calls[:0], b.data[:0]
}

// done runs the rest and returns the first error of the whole batch.
func (b *batch) done() error {
	b.flush()
	return b.err
}

// run executes the collected calls in the thread.
func (b *batch) run() error {
	if err := b.p.j.step(b.calls[0].what); err != nil {
		return err
	}
	raw := b.encode()
	records := b.p.boot + bootRecords
	if _, err := ptrace.WriteMemory(b.p.pid, []ptrace.Range{{Addr: records, Len: len(raw)}}, raw); err != nil {
		return err
	}
	if len(b.data) > 0 {
		if _, err := ptrace.WriteMemory(b.p.pid, []ptrace.Range{{Addr: b.p.boot + bootData, Len: len(b.data)}},
			b.data); err != nil {
			return err
		}
	}
	regs, err := b.th.Regs()
	if err != nil {
		return err
	}
	if err := regs.SetBatch(b.p.boot+stub.Batch, records, records+uint64(len(raw))); err != nil {
		return err
	}
	if err := b.th.Run(&regs, b.onNew); err != nil {
		return err
	}
	if _, err := ptrace.ReadMemory(b.p.pid, []ptrace.Range{{Addr: records, Len: len(raw)}}, raw); err != nil {
		return err
	}
	return b.judge(raw)
}

func (b *batch) encode() []byte {
	raw := make([]byte, len(b.calls)*stub.RecordSize)
	for i, c := range b.calls {
		rec := raw[i*stub.RecordSize:]
		binary.LittleEndian.PutUint64(rec, c.nr)
		for j, a := range c.args {
			binary.LittleEndian.PutUint64(rec[8+8*j:], a)
		}
		if c.want != nil {
			binary.LittleEndian.PutUint64(rec[64:], stub.KeepGoing)
		}
	}
	return raw
}

func (b *batch) judge(raw []byte) error {
	for i, c := range b.calls {
		result := int64(binary.LittleEndian.Uint64(raw[i*stub.RecordSize+56:]))
		if c.want != nil {
			if err := c.want(result); err != nil {
				return b.failed(c, err)
			}
			continue
		}
		if err := errnoOf(result); err != nil {
			return b.failed(c, err)
		}
	}
	return nil
}

func (b *batch) failed(c batchCall, err error) error {
	if f := (*fault.Error)(nil); errors.As(err, &f) {
		return err // it says all
	}
	if errors.Is(err, unix.EPERM) {
		return fault.New(fault.RestoreRights, b.p.object(), "%s: %w", c.what, err)
	}
	return fault.New(fault.RestoreStep, b.p.object(), "%s: %w", c.what, err)
}

// errnoOf returns the error that a raw result stands for, nil if it is none.
func errnoOf(result int64) error {
	if result < 0 && result > -4096 {
		return unix.Errno(-result)
	}
	return nil
}

// exactly wants one particular result.
func exactly(want uint64) func(int64) error {
	return func(result int64) error {
		if err := errnoOf(result); err != nil {
			return err
		}
		if uint64(result) != want {
			return fmt.Errorf("gave %#x instead of %#x", uint64(result), want)
		}
		return nil
	}
}

// except accepts an error that changes nothing.
func except(ok ...unix.Errno) func(int64) error {
	return func(result int64) error {
		err := errnoOf(result)
		if errno, is := err.(unix.Errno); is && slices.Contains(ok, errno) {
			return nil
		}
		return err
	}
}

// readOut reads what a call of the batch that ran last wrote to an out argument at addr.
func (p *process) readOut(addr uint64, buf []byte) error {
	_, err := ptrace.ReadMemory(p.pid, []ptrace.Range{{Addr: addr, Len: len(buf)}}, buf)
	return err
}
