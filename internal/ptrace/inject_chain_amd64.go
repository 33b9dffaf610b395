package ptrace

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// A chain is many calls with one stop. Each call returns into a gadget that stores the result, then into rt_sigreturn,
// whose frame holds the registers of the next call. The last call is tgkill(2) of the thread itself with a signal that
// the process ignores: with us alive that is a stop, without us nothing, and what follows is the frame that leads back.
// So a chain runs to its end whether or not we do.
//
// rt_sigreturn resets the restart block, so a thread that needs it makes its calls one by one.

// bells are signals whose default is to be ignored and that have no other effect (signal(7)).
var bells = [...]int{int(unix.SIGWINCH), int(unix.SIGURG), int(unix.SIGCHLD)}

// bell returns a signal that the process ignores, 0 if it takes all of them. It is not one that is waiting, which would
// be taken for ours and be gone, and rather one that the thread has not blocked: such a signal would not wait if
// somebody sent it now.
func bell(s *procfs.Status) int {
	waiting := s.SigPnd | s.ShdPnd
	for _, taken := range []uint64{s.SigCgt | waiting | s.SigBlk, s.SigCgt | waiting} {
		for _, sig := range bells {
			if taken&sigBit(sig) == 0 {
				return sig
			}
		}
	}
	for sig := 1; sig < firstRealTime; sig++ {
		if s.SigIgn&^waiting&sigBit(sig) != 0 && sig != int(unix.SIGCONT) {
			return sig
		}
	}
	return 0
}

const firstRealTime = 32 // real-time signals queue up instead of merging

func sigBit(sig int) uint64 { return 1 << (sig - 1) }

// chain is the way a loan makes its calls when it makes them in chains. The words that lead from call to call end where
// the frame of the loan begins; results and data are behind it.
type chain struct {
	bell     int
	tgid     uint64 // as the thread itself numbers them
	tid      uint64
	most     int    // calls in one run
	lead     uint64 // bytes before the frame, for the words of a run
	room     uint64 // bytes behind the frame
	results  uint64 // address of the results, with Syscall.Data behind them
	fpstate  uint64
	stepSize uint64
}

const (
	chainRoom = 12 << 10 // what a chain may take beside the frame
	resultAt  = 8        // a result
)

// stepSize is that of the words that lead from one call to the next.
func (g *gadgets) stepSize() uint64 { return uint64(8*(2+len(g.finish)) + sizeofUContext) }

func dataSize(c *Syscall) uint64 { return uint64(len(c.Data)+7) &^ 7 }

// chainSize tells how many of calls go into one run, and the memory that their results and data take.
func (l *loan) chainSize(calls []Syscall) (most int, room uint64) {
	step := l.code.stepSize()
	for most = 0; most < len(calls); most++ {
		need := resultAt + dataSize(&calls[most])
		if uint64(most+1)*step+room+need > chainRoom {
			break
		}
		room += need
	}
	if most == len(calls) {
		return most, room
	}
	// Later runs have other calls: each has at most the data of the largest.
	largest := uint64(0)
	for i := range calls {
		largest = max(largest, dataSize(&calls[i]))
	}
	most = int(chainRoom / (step + resultAt + largest))
	return most, uint64(most) * (resultAt + largest)
}

// chainable prepares a chain; nil means that the calls have to be made one by one.
func (l *loan) chainable(s *procfs.Status, calls []Syscall) *chain {
	sig := bell(s)
	if len(calls) < 2 || l.code.store == 0 || sig == 0 || len(s.NStgid) == 0 || len(s.NSpid) == 0 {
		return nil
	}
	if _, result, ok := l.regs.Syscall(); ok && result == restartBlock {
		return nil
	}
	c := &chain{
		bell: sig, tgid: uint64(s.NStgid[len(s.NStgid)-1]), tid: uint64(s.NSpid[len(s.NSpid)-1]),
		stepSize: l.code.stepSize(),
	}
	if c.most, c.room = l.chainSize(calls); c.most < 2 {
		return nil
	}
	c.lead = alignFrame(uint64(c.most) * c.stepSize)
	return c
}

// at places the chain around the frame.
func (c *chain) at(l *loan, f *signalFrame) {
	c.fpstate = l.home + f.xstateAt()
	c.results = l.home + f.size()
}

// ring is the call that ends a chain.
func (c *chain) ring() Syscall {
	return Syscall{Nr: unix.SYS_TGKILL, Args: [6]uint64{c.tgid, c.tid, uint64(c.bell)}}
}

// runChain makes up to chain.most calls.
func (l *loan) runChain(calls []Syscall) error {
	c := l.chain
	first, words, answer := l.steps(calls)
	if _, err := WriteMemory(l.th.Pid, []Range{{first.Rsp, len(words)}, {c.results, len(answer)}},
		slices.Concat(words, answer)); err != nil {
		return l.fail("write the arguments", err)
	}
	if err := setRegset(l.th.Tid, regsetPRStatus, first.Bytes()); err != nil {
		return l.fail("write registers", err)
	}
	if err := l.take(^sigBit(c.bell)); err != nil {
		return err
	}
	if err := l.toBell(); err != nil {
		return l.fail("a chain of system calls", err)
	}
	if _, err := ReadMemory(l.th.Pid, []Range{{c.results, len(answer)}}, answer); err != nil {
		return l.fail("read the answers", err)
	}
	for i := range calls {
		calls[i].Ret = int64(binary.LittleEndian.Uint64(answer[resultAt*i:]))
	}
	answer = answer[resultAt*len(calls):]
	for i := range calls {
		copy(calls[i].Data, answer)
		answer = answer[dataSize(&calls[i]):]
	}
	return nil
}

// steps returns the registers of the first call, the words that its stack pointer leads to, and what is at
// chain.results.
func (l *loan) steps(calls []Syscall) (first Regs, words, results []byte) {
	c := l.chain
	begin := l.home - uint64(len(calls))*c.stepSize
	results = make([]byte, resultAt*len(calls))
	regs := make([]Regs, 0, len(calls)+1)
	for i := range calls {
		args := calls[i].Args
		if calls[i].Data != nil {
			args[calls[i].Arg] = c.results + uint64(len(results))
			results = append(results, calls[i].Data...)
			results = append(results, make([]byte, dataSize(&calls[i])-uint64(len(calls[i].Data)))...)
		}
		r := l.injected(calls[i].Nr, args)
		r.Rsp = begin + uint64(i)*c.stepSize
		r.Rbx = c.results + uint64(resultAt*i)
		regs = append(regs, r)
	}
	ring := c.ring()
	regs = append(regs, l.injected(ring.Nr, ring.Args)) // its stack pointer is at the frame
	for i := range calls {
		next := signalFrame{regs: regs[i+1], mask: ^sigBit(c.bell)}
		lead := append([]uint64{l.code.store, 0}, l.code.finish...)
		for _, w := range slices.Concat(lead, next.ucontext(c.fpstate)) {
			words = binary.LittleEndian.AppendUint64(words, w)
		}
	}
	return regs[0], words, results
}

// toBell lets the thread run until it has ended its chain.
func (l *loan) toBell() error {
	for sig := 0; ; {
		if err := request(unix.PTRACE_CONT, l.th.Tid, 0, uintptr(sig)); err != nil {
			return err
		}
		status, err := l.th.wait()
		if err != nil {
			return err
		}
		if int(status)>>16 == 0 && int(status.StopSignal()) == l.chain.bell {
			var r Regs
			if _, err := getRegset(l.th.Tid, regsetPRStatus, r.Bytes()); err != nil {
				return err
			}
			if r.Rsp == l.home && r.Rip == l.code.call+uint64(len(codeSyscall)) {
				return nil
			}
			sig = l.chain.bell // somebody else's; it is ignored
			continue
		}
		if sig, err = l.passOn(status); err != nil {
			return err
		}
	}
}
