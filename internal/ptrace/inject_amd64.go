package ptrace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// gadgets are addresses of code of the target that injection uses.
type gadgets struct {
	call     uint64 // syscall; ret
	store    uint64 // mov %rax,(%rbx); pop %rbx; ret; 0 if there is none
	restorer uint64 // the syscall instruction of a restorer, if there is one
	// what to put on the stack, lowest address first, so that a ret ends in rt_sigreturn with the frame right behind
	finish []uint64
}

// The instruction sequences. What precedes them does not matter: they are jumped to.
var (
	codeSyscallRet = []byte{0x0f, 0x05, 0xc3}                                             // syscall; ret
	codeRestorer   = []byte{0x48, 0xc7, 0xc0, unix.SYS_RT_SIGRETURN, 0, 0, 0, 0x0f, 0x05} // mov $15,%rax; syscall
	codeRestorer32 = []byte{0xb8, unix.SYS_RT_SIGRETURN, 0, 0, 0, 0x0f, 0x05}             // mov $15,%eax; syscall
	// mov %rax,(%rbx); pop %rbx; ret
	codeStore   = []byte{0x48, 0x89, 0x03, 0x5b, 0xc3}
	codePopRax  = []byte{0x58, 0xc3} // pop %rax; ret
	codeSyscall = []byte{0x0f, 0x05}
)

// finder collects the addresses of the sequences.
type finder struct{ call, store, restorer, restorerInsn, popRax uint64 }

func (f *finder) scan(addr uint64, code []byte) {
	at := func(out *uint64, seq []byte) {
		if i := bytes.Index(code, seq); *out == 0 && i >= 0 {
			*out = addr + uint64(i)
		}
	}
	at(&f.call, codeSyscallRet)
	at(&f.store, codeStore)
	for _, seq := range [][]byte{codeRestorer, codeRestorer32} {
		if f.restorer == 0 {
			at(&f.restorer, seq)
			f.restorerInsn = f.restorer + uint64(len(seq)-len(codeSyscall))
		}
	}
	at(&f.popRax, codePopRax)
}

func (f *finder) gadgets() gadgets {
	g := gadgets{call: f.call, store: f.store, restorer: f.restorerInsn, finish: []uint64{f.restorer}}
	if f.restorer == 0 {
		g.finish = []uint64{f.popRax, unix.SYS_RT_SIGRETURN, f.call}
	}
	return g
}

// findGadgets looks through the executable mappings: the vDSO first, then those of files (libraries are rarely
// unmapped), small ones first. Any process with a libc, and any Go program, has the two sequences that are needed; `pop
// %rax; ret` stands in for a missing restorer. The one that chains need is found in a libc.
func findGadgets(pid int, maps []procfs.Map) (gadgets, error) {
	var f finder
	buf := make([]byte, 256<<10)
	for _, m := range codeMaps(maps) {
		for at := m.Start; at < m.End; {
			n := int(min(m.End-at, uint64(len(buf))))
			if _, err := ReadMemory(pid, []Range{{at, n}}, buf[:n]); err != nil {
				break // beyond the end of the file
			}
			f.scan(at, buf[:n])
			if f.call != 0 && f.restorer != 0 && f.store != 0 {
				return f.gadgets(), nil
			}
			if uint64(n) == m.End-at {
				break
			}
			at += uint64(n - len(codeRestorer)) // a sequence across the border is found in the next piece
		}
	}
	if f.call != 0 && (f.restorer != 0 || f.popRax != 0) {
		return f.gadgets(), nil
	}
	return gadgets{}, fault.New(fault.InjectCode, fmt.Sprintf("pid %d", pid), "no `syscall; ret` and sigreturn sequence in its code")
}

func codeMaps(maps []procfs.Map) []procfs.Map {
	var out []procfs.Map
	for _, m := range maps {
		if m.Prot&(unix.PROT_READ|unix.PROT_EXEC) == unix.PROT_READ|unix.PROT_EXEC && m.Name != "[vsyscall]" &&
			(m.HasFile() || m.Name == "[vdso]") && !m.Shared {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b procfs.Map) int { return int((a.End-a.Start)>>12) - int((b.End-b.Start)>>12) })
	return out
}

// userCS is the code segment of 64-bit user mode (arch/x86/include/asm/segment.h, __USER_CS).
const userCS = 0x33

// usable reports whether the registers of the thread can be borrowed.
func (l *loan) usable(status *procfs.Status) error {
	if l.regs.Cs != userCS {
		return l.refuse("it runs 32-bit code (cs %#x)", l.regs.Cs)
	}
	if slices.Contains(status.X86ThreadFeatures, "shstk") {
		return l.refuse("it has a shadow stack (%s)", strings.Join(status.X86ThreadFeatures, " "))
	}
	switch l.seccomp = status.Seccomp; l.seccomp {
	case seccompOff, seccompFiltered:
	default:
		return l.refuse("it is in seccomp mode %d", l.seccomp)
	}
	// the error of a kernel before 6.4 means: cannot tell
	if sud, err := getSUD(l.th.Tid); err == nil && sud.Mode != 0 {
		return l.refuse("it has its system calls dispatched to itself (PR_SET_SYSCALL_USER_DISPATCH)")
	}
	if !l.restarts() {
		return nil
	}
	insn := make([]byte, len(codeSyscall))
	if err := access(l.th.Pid, l.regs.Rip-2, insn, unix.O_RDONLY); err != nil || !bytes.Equal(insn, codeSyscall) {
		return l.refuse("its interrupted system call was not made by a syscall instruction")
	}
	var known bool
	if l.again, known = RestartedCall(l.th.Pid, &l.regs); !known {
		return l.refuse("it has been interrupted before, and its code does not tell in which system call")
	}
	return nil
}

// blocking are the system calls that restart_syscall(2) continues.
var blocking = [...]byte{unix.SYS_POLL, unix.SYS_NANOSLEEP, unix.SYS_FUTEX, unix.SYS_CLOCK_NANOSLEEP}

// RestartedCall returns the number of the system call that a thread with registers r is interrupted in. When it was
// interrupted and continued before, the registers only say restart_syscall; then the number is taken from the
// instruction that loaded it, which compilers and libc put right before the system call, or before the call of
// syscall(3). ok is false if no such instruction is found.
func RestartedCall(pid int, r *Regs) (nr uint64, ok bool) {
	if r.OrigRax != unix.SYS_RESTART_SYSCALL {
		return r.OrigRax, int64(r.OrigRax) >= 0
	}
	var code [24]byte
	at := r.Rip - uint64(len(codeSyscall))
	if err := access(pid, at-uint64(len(code)), code[:], unix.O_RDONLY); err != nil {
		return 0, false
	}
	if !bytes.HasSuffix(code[:], codeSeventhArg) {
		return loaded(code[:], []byte{0xb8}, []byte{0x48, 0xc7, 0xc0}) // mov $n,%eax; mov $n,%rax
	}
	var caller [48]byte
	var ret [8]byte
	if err := access(pid, r.Rsp, ret[:], unix.O_RDONLY); err != nil {
		return 0, false
	}
	if err := access(pid, binary.LittleEndian.Uint64(ret[:])-uint64(len(caller)), caller[:],
		unix.O_RDONLY); err != nil {
		return 0, false
	}
	return loaded(caller[:], []byte{0xbf}, []byte{0x48, 0xc7, 0xc7}) // mov $n,%edi; mov $n,%rdi
}

// codeSeventhArg is how syscall(3) of glibc ends: mov 8(%rsp),%r9.
var codeSeventhArg = []byte{0x4c, 0x8b, 0x4c, 0x24, 0x08}

// loaded finds the one blocking system call whose number some instruction in code loads. opcodes are what precedes the
// number.
func loaded(code []byte, opcodes ...[]byte) (nr uint64, ok bool) {
	for _, n := range blocking {
		found := false
		for _, opcode := range opcodes {
			found = found || bytes.Contains(code, append(slices.Clone(opcode), n, 0, 0, 0))
		}
		switch {
		case found && ok:
			return 0, false // two candidates
		case found:
			nr, ok = uint64(n), true
		}
	}
	return nr, ok
}

// Results by which the kernel marks an interrupted system call (include/linux/errno.h).
const (
	restartSys    = -512
	restartNoIntr = -513
	restartNoHand = -514
	restartBlock  = -516
)

func (l *loan) restarts() bool {
	_, result, ok := l.regs.Syscall()
	return ok && (result == restartSys || result == restartNoIntr || result == restartNoHand || result == restartBlock)
}

// rewound returns the registers as the kernel itself makes them when it restarts the interrupted system call, if there
// is one (arch/x86/kernel/signal.c, arch_do_signal_or_restart), or aborts the rseq critical section that the thread is
// in. One difference: a call that the kernel would continue with restart_syscall(2) is made anew, because sigreturn
// makes restart_syscall fail with EINTR (restore_sigcontext). A relative timeout then starts again, except in a
// nanosleep(2) whose remaining time replaces the request.
func (l *loan) rewound() Regs {
	r := l.regs
	if l.restarts() {
		r.Rax = l.again
		r.Rip -= uint64(len(codeSyscall))
	}
	if l.cs.inside {
		r.Rip = l.cs.abort
	}
	r.OrigRax = noSyscall
	return r
}

// sigreturnInsn is the address of the syscall instruction with which the thread finds back.
func (l *loan) sigreturnInsn() uint64 {
	if len(l.code.finish) > 1 {
		return l.code.call
	}
	return l.code.restorer
}

// Bits of the flags register that must be clear in borrowed registers: trap, direction, resume, alignment check.
const flagsCleared = 1<<8 | 1<<10 | 1<<16 | 1<<18

// injected returns registers that execute a system call and then return into sigreturn.
func (l *loan) injected(nr uint64, args [6]uint64) Regs {
	r := l.regs
	r.SetCall(l.code.call, nr, args[:]...)
	r.Rsp = l.home
	r.Eflags &^= flagsCleared
	return r
}

// parked returns registers that do nothing but return into sigreturn.
func (l *loan) parked() Regs {
	r := l.regs
	r.Rip, r.Rsp, r.OrigRax = l.code.finish[0], l.home+8, noSyscall
	r.Eflags &^= flagsCleared
	return r
}

// signalFrame is what rt_sigreturn(2) reads: the words that lead there, struct ucontext, and the extended state
// (arch/x86/include/asm/sigframe.h, include/uapi/asm/ucontext.h and sigcontext.h).
type signalFrame struct {
	finish []uint64
	regs   Regs
	mask   uint64
	xstate []byte // with the software bytes and the end mark of a signal frame
}

const (
	sizeofUContext = 304
	xstateAlign    = 64
	xstateSW       = 464 // struct _fpx_sw_bytes within the legacy area
	xstateHeader   = 512
	xstateMagic1   = 0x46505853 // FP_XSTATE_MAGIC1
	xstateMagic2   = 0x46505845 // FP_XSTATE_MAGIC2
	xfeaturePKRU   = 1 << 9
	xfeatureTile   = 1 << 18
	sizeofTile     = 8192
	ucFlags        = 7 // UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
	// noAltStack in ss_flags is a value sigaltstack(2) refuses, so that sigreturn leaves the alternate stack as it is,
	// whatever it is: restore_altstack (kernel/signal.c) ignores every error but a fault.
	noAltStack = 0x00ffffff
)

// frame makes the frame of the thread as it was found.
func (l *loan) frame() (*signalFrame, error) {
	f := &signalFrame{finish: l.code.finish, regs: l.rewound(), mask: l.mask}
	buf := make([]byte, maxXState)
	n, err := getRegset(l.th.Tid, regsetXState, buf)
	if err != nil {
		return nil, l.fail("read the extended state", err)
	}
	if f.xstate, err = signalXState(buf[:n]); err != nil {
		return nil, l.fail("read the extended state", err)
	}
	return f, nil
}

// signalXState turns NT_X86_XSTATE into the form of a signal frame. The first software word of the former is XCR0.
func signalXState(b []byte) ([]byte, error) {
	if len(b) < xstateHeader+64 {
		return nil, fmt.Errorf("extended state of %d bytes", len(b))
	}
	features := binary.LittleEndian.Uint64(b[xstateSW:])
	inUse := binary.LittleEndian.Uint64(b[xstateHeader:])
	if features&xfeatureTile != 0 && inUse&xfeatureTile == 0 {
		// A thread that never used the tiles has no room for them in the kernel, which then refuses a frame that has.
		// They come last.
		features &^= xfeatureTile
		b = b[:len(b)-sizeofTile]
	}
	// The value of PKRU is there whether or not the processor calls it in use.
	inUse |= features & xfeaturePKRU
	out := append(slices.Clone(b), 0, 0, 0, 0)
	binary.LittleEndian.PutUint64(out[xstateHeader:], inUse)
	clear(out[xstateSW:xstateHeader])
	binary.LittleEndian.PutUint32(out[xstateSW:], xstateMagic1)
	binary.LittleEndian.PutUint32(out[xstateSW+4:], uint32(len(out)))
	binary.LittleEndian.PutUint64(out[xstateSW+8:], features)
	binary.LittleEndian.PutUint32(out[xstateSW+16:], uint32(len(b)))
	binary.LittleEndian.PutUint32(out[len(b):], xstateMagic2)
	return out, nil
}

// xstateAt is the offset of the extended state in the frame, if the frame begins at a multiple of 64.
func (f *signalFrame) xstateAt() uint64 {
	return (uint64(8*len(f.finish)+sizeofUContext) + xstateAlign - 1) &^ (xstateAlign - 1)
}

// size is a multiple of 16. The frame must begin at a multiple of 64.
func (f *signalFrame) size() uint64 { return (f.xstateAt() + uint64(len(f.xstate)) + 15) &^ 15 }

// bytes returns the frame as it stands at base.
func (f *signalFrame) bytes(base uint64) []byte {
	out := make([]byte, f.size())
	copy(out[f.xstateAt():], f.xstate)
	words := make([]uint64, 0, len(f.finish)+sizeofUContext/8)
	words = append(words, f.finish...)
	words = append(words, f.ucontext(base+f.xstateAt())...)
	for i, w := range words {
		binary.LittleEndian.PutUint64(out[8*i:], w)
	}
	return out
}

func (f *signalFrame) ucontext(fpstate uint64) []uint64 {
	r := &f.regs
	return []uint64{
		ucFlags, 0, // uc_flags, uc_link
		0, noAltStack, 0, // uc_stack: ss_sp, ss_flags, ss_size
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.Rdi, r.Rsi, r.Rbp, r.Rbx, r.Rdx, r.Rax, r.Rcx, r.Rsp,
		r.Rip, r.Eflags,
		r.Cs&0xffff | r.Gs&0xffff<<16 | r.Fs&0xffff<<32 | r.Ss&0xffff<<48,
		0, 0, 0, 0, // err, trapno, oldmask, cr2
		fpstate, 0, 0, 0, 0, 0, 0, 0, 0, // fpstate, reserved
		f.mask, // uc_sigmask
	}
}
