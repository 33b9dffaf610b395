package restore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/stub"
	"github.com/bpfckpt/bpfckpt/model"
)

// process is one process being built.
type process struct {
	j       *journal
	rec     *model.Process
	pid     int              // as we see it; in a pid namespace of its own it differs from rec.Pid
	boot    uint64           // where the boot area is, 0 before buildSpace
	socket  int              // the number of the socket that descriptors come through
	lead    *ptrace.Thread   // the thread group leader
	threads []*ptrace.Thread // by index of rec.Threads
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

// parent is the OS thread that starts the stub. The restored root becomes its child (CLONE_PARENT), so it must live as
// long as the processes do: PR_SET_PDEATHSIG counts the death of a thread.
type parent struct {
	work chan func()
	pipe *os.File // in a pid namespace: its init writes the wait status of the root here
}

func newParent() *parent {
	p := &parent{work: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for f := range p.work {
			f()
		}
	}()
	return p
}

func (p *parent) do(f func() error) (err error) {
	done := make(chan struct{})
	p.work <- func() { err = f(); close(done) }
	<-done
	return err
}

// Descriptors of the stub: the sockets to receive descriptors from and, for an init, the pipe to report on.
const (
	stubSocket = 3
	stubReport = 4
)

// startStub runs the stub from a memfd and takes it over.
func (r *restorer) startStub() error {
	r.tr = ptrace.New()
	// The last to be waited for: the init of a pid namespace does not end before those that we trace in it are let go.
	r.j.onUndo(func() {
		if r.stubCmd != nil {
			_ = r.stubCmd.Wait()
		}
	})
	r.j.onUndo(r.killAll)
	r.procs = make([]*process, len(r.st.Processes))
	r.made = make([]*process, len(r.plan.Births.Kin))
	if err := r.j.step("start the stub"); err != nil {
		return err
	}
	program, err := stub.ELF()
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("bpfckpt-stub", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make the stub's file: %w", err)
	}
	file := os.NewFile(uintptr(fd), "bpfckpt-stub")
	defer file.Close()
	if _, err := file.Write(program); err != nil {
		return fmt.Errorf("write the stub: %w", err)
	}
	ours, theirs, err := r.socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	r.mapped.socket = ours

	r.parent = newParent()
	cmd := &exec.Cmd{
		Path: fmt.Sprintf("/proc/self/fd/%d", fd), Args: []string{"bpfckpt-stub"}, Env: []string{},
		Dir: "/",
	}
	cmd.ExtraFiles = []*os.File{theirs}
	// Until it is traced, it would outlive us if we were killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: r.o.Detach, Pdeathsig: syscall.SIGKILL}
	if r.pidNS {
		report, write, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("make the report pipe: %w", err)
		}
		defer write.Close()
		r.j.onUndo(func() { report.Close() })
		r.parent.pipe = report
		cmd.ExtraFiles = append(cmd.ExtraFiles, write)
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS
	}
	var have []inherited
	if err := r.parent.do(func() error { have = inheritedHere(); return cmd.Start() }); err != nil {
		if r.pidNS {
			return fault.New(fault.PidNS, "pid namespace", "%w", err)
		}
		return fmt.Errorf("start the stub: %w", err)
	}
	r.j.onUndo(func() { _ = cmd.Process.Kill() })
	r.stubCmd = cmd
	lead, err := r.tr.Own(cmd.Process.Pid)
	if err != nil {
		return err
	}
	r.stub = &process{j: r.j, rec: &model.Process{Pid: cmd.Process.Pid}, pid: cmd.Process.Pid, lead: lead}
	if err := lead.SetSigMask(blockAll); err != nil {
		return err
	}
	if err := r.neutralise(have); err != nil {
		return err
	}
	if r.pidNS {
		if err := r.mountProc(); err != nil {
			return err
		}
	}
	return r.clocks.set(r.stub)
}

// blockAll blocks every signal but SIGTRAP, which our breakpoints use.
const blockAll = ^uint64(0) &^ (1 << (unix.SIGTRAP - 1))

// mountProc gives the new pid namespace a /proc of its own, in the stub's new mount namespace.
func (r *restorer) mountProc() error {
	s := r.stub
	at := stackOf(s)
	text := []byte("none\x00/\x00proc\x00/proc\x00")
	if err := s.lead.Poke(at, text); err != nil {
		return err
	}
	none, root, proc, slashProc := at, at+5, at+7, at+12
	if _, err := s.call("make mounts private", unix.SYS_MOUNT, none, root, 0, unix.MS_REC|unix.MS_PRIVATE,
		0); err != nil {
		return fault.New(fault.PidNS, "mount namespace", "%w", err)
	}
	_, err := s.call("mount /proc", unix.SYS_MOUNT, proc, slashProc, proc, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC,
		0)
	if err != nil {
		return fault.New(fault.PidNS, "/proc", "mount: %w", err)
	}
	return nil
}

// stackOf returns an address on the stub's stack that is free to use: the code itself uses none.
func stackOf(p *process) uint64 {
	regs, err := p.lead.Regs()
	if err != nil {
		return 0 // the write to it fails and tells
	}
	return (regs.SP() - 1024) &^ 15
}

// endStub ends the stub when its work, making the root, is done.
func (r *restorer) endStub() error {
	if r.pidNS {
		return nil // it becomes the init of the namespace: letStubGo
	}
	if err := unix.Kill(r.stub.pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("end the stub: %w", err)
	}
	return nil // reaped by the rollback or by letStubGo
}

// letStubGo ends the part of the stub: it is dead and reaped, or becomes the init of the new pid namespace.
func (r *restorer) letStubGo() error {
	if !r.pidNS {
		_ = r.stubCmd.Wait() // it was killed, which Wait calls an error
		return nil
	}
	s := r.stub
	if _, err := s.call("close the socket", unix.SYS_CLOSE, stubSocket); err != nil {
		return err
	}
	if _, err := s.call("outlive us", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, 0); err != nil {
		return err
	}
	regs, err := s.lead.Regs()
	if err != nil {
		return err
	}
	if err := regs.SetInit(stub.CodeAt+stub.Init, uint64(r.st.Root), stubReport); err != nil {
		return err
	}
	if err := s.lead.SetRegs(&regs); err != nil {
		return err
	}
	if err := s.lead.Settle(); err != nil {
		return err
	}
	if err := s.lead.Release(); err != nil {
		return err
	}
	go func() { _ = r.stubCmd.Wait() }() // it ends with the namespace; its status says nothing
	return nil
}

// killAll takes down every process made so far and waits until the kernel has given their ids back. Children of the
// tree would be left to the system's init when the root dies; for that moment they come to us instead.
func (r *restorer) killAll() {
	was := subreaper()
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) // without it init reaps them, a little later
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, was, 0, 0, 0) }()
	var pids []int
	for _, p := range slices.Concat(r.procs, r.helpers) {
		if p != nil {
			pids = append(pids, p.pid)
			_ = unix.Kill(p.pid, unix.SIGKILL) // it may be dead
		}
	}
	r.tr.Close()                                       // what is still attached dies and detaches
	for before := len(pids) + 1; len(pids) < before; { // one becomes ours when its parent has ended
		before = len(pids)
		pids = slices.DeleteFunc(pids, reap)
	}
}

// reap waits for the end of a child of ours, and reports whether it is one.
func reap(pid int) bool {
	for {
		_, err := unix.Wait4(pid, nil, unix.WALL, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

func (r *restorer) createFault(pid int, err error) error {
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

// die makes a process what it was at the snapshot: dead and not waited for.
func (r *restorer) die(p *process) error {
	if err := r.j.step("make a zombie"); err != nil {
		return err
	}
	if len(p.rec.Args) > 0 {
		at := stackOf(p)
		if err := p.lead.Poke(at, append([]byte(p.rec.Args[0]), 0)); err != nil {
			return err
		}
		if _, err := p.call("set the name", unix.SYS_PRCTL, unix.PR_SET_NAME, at); err != nil {
			return err
		}
	}
	regs, err := p.lead.Regs()
	if err != nil {
		return err
	}
	status := unix.WaitStatus(p.rec.ExitCode)
	if status.Signaled() {
		if err := r.readyToDie(p, status); err != nil {
			return err
		}
		regs.SetCall(p.insn(), unix.SYS_KILL, uint64(p.rec.Pid), uint64(status.Signal()))
	} else {
		regs.SetCall(p.insn(), unix.SYS_EXIT_GROUP, uint64(status.ExitStatus()))
	}
	if err := p.lead.SetRegs(&regs); err != nil {
		return err
	}
	if err := p.lead.Release(); err != nil {
		return err
	}
	return awaitState(p.pid, "Z")
}

// readyToDie makes a process one that a signal kills, without a core dump: that would be one of the stub.
func (r *restorer) readyToDie(p *process, status unix.WaitStatus) error {
	if _, err := p.call("forbid a core dump", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	if status.CoreDump() {
		r.j.note("%s, a zombie, had dumped core: its status will tell of the signal only",
			p.object())
	}
	if status.Signal() == unix.SIGKILL {
		return nil // it has no action, and nothing can block it
	}
	return p.lead.SetSigMask(0)
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
