package restore

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/stub"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

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

// stubProcess is the process that all others are made from, and what started it. In a pid namespace of their own it
// becomes the init of that.
type stubProcess struct {
	*process // nil until start

	j      *journal
	pidNS  bool // they get a pid namespace of their own
	detach bool // they outlive the session that we are in
	parent *parent
	cmd    *exec.Cmd // nil until it runs
}

// start runs the stub from a memfd and takes it over. It gets the far end of the hand-over socket.
func (s *stubProcess) start(tr *ptrace.Tracer, socket *os.File) error {
	program, err := stubFile()
	if err != nil {
		return err
	}
	defer program.Close()
	s.parent = newParent()
	cmd := &exec.Cmd{
		Path: fmt.Sprintf("/proc/self/fd/%d", program.Fd()), Args: []string{"bpfckpt-stub"}, Env: []string{},
		Dir: "/",
	}
	cmd.ExtraFiles = []*os.File{socket}
	// Until it is traced, it would outlive us if we were killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: s.detach, Pdeathsig: syscall.SIGKILL}
	if s.pidNS {
		report, write, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("make the report pipe: %w", err)
		}
		defer write.Close()
		s.j.onUndo(func() { report.Close() })
		s.parent.pipe = report
		cmd.ExtraFiles = append(cmd.ExtraFiles, write)
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS
	}
	var have []inherited
	if err := s.parent.do(func() error { have = inheritedHere(); return cmd.Start() }); err != nil {
		if s.pidNS {
			return fault.New(fault.PidNS, "pid namespace", "%w", err)
		}
		return fmt.Errorf("start the stub: %w", err)
	}
	s.j.onUndo(func() { _ = cmd.Process.Kill() })
	s.cmd = cmd
	lead, err := tr.Own(cmd.Process.Pid)
	if err != nil {
		return err
	}
	s.process = &process{
		j: s.j, tr: tr, rec: &model.Process{Pid: cmd.Process.Pid}, pid: cmd.Process.Pid, kin: plan.TheStub, lead: lead,
	}
	return s.prepare(have)
}

// stubFile returns the program of the stub as a file without a name.
func stubFile() (*os.File, error) {
	program, err := stub.ELF()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("bpfckpt-stub", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make the stub's file: %w", err)
	}
	file := os.NewFile(uintptr(fd), "bpfckpt-stub")
	if _, err := file.Write(program); err != nil {
		file.Close()
		return nil, fmt.Errorf("write the stub: %w", err)
	}
	return file, nil
}

// prepare makes the stub what processes are copied from: it has inherited the given attributes.
func (s *stubProcess) prepare(have []inherited) error {
	if err := s.lead.SetSigMask(blockAll); err != nil {
		return err
	}
	if err := s.neutralise(have); err != nil {
		return err
	}
	if s.pidNS {
		return s.mountProc()
	}
	return nil
}

// blockAll blocks every signal but SIGTRAP, which our breakpoints use.
const blockAll = ^uint64(0) &^ (1 << (unix.SIGTRAP - 1))

// neutralise takes from the stub what it has inherited: the given attributes, and that it ignores signals.
func (s *stubProcess) neutralise(have []inherited) error {
	for _, a := range have {
		if _, err := s.call(a.what, a.nr, a.args...); err != nil {
			return err
		}
	}
	status, err := procfs.Pid(s.pid).Status()
	if err != nil {
		return err
	}
	if status.SigIgn == 0 {
		return nil
	}
	at := stackOf(s.process)
	if err := s.lead.Poke(at, make([]byte, sizeofSigaction)); err != nil {
		return err
	}
	for sig := uint64(1); sig <= 64; sig++ {
		if status.SigIgn&(1<<(sig-1)) == 0 {
			continue
		}
		if _, err := s.call(fmt.Sprintf("take the default action of signal %d", sig), unix.SYS_RT_SIGACTION, sig, at, 0,
			sigsetSize); err != nil {
			return err
		}
	}
	return nil
}

// mountProc gives the new pid namespace a /proc of its own, in the stub's new mount namespace.
func (s *stubProcess) mountProc() error {
	at := stackOf(s.process)
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

// end ends the stub when its work, making the root, is done.
func (s *stubProcess) end() error {
	if s.pidNS {
		return nil // it becomes the init of the namespace: letGo
	}
	if err := unix.Kill(s.pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("end the stub: %w", err)
	}
	return nil // wait reaps it
}

// letGo ends the part of the stub: it is dead and reaped, or becomes the init of the new pid namespace, which reports
// how root ends.
func (s *stubProcess) letGo(root int) error {
	if !s.pidNS {
		s.wait()
		return nil
	}
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
	if err := regs.SetInit(stub.CodeAt+stub.Init, uint64(root), stubReport); err != nil {
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
	go s.wait() // it ends with the namespace; its status says nothing
	return nil
}

// wait reaps the stub, if it has been started.
func (s *stubProcess) wait() {
	if s.cmd != nil {
		_ = s.cmd.Wait() // it was killed, which Wait calls an error
	}
}
