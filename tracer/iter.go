package tracer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// Iter is the source "iter": one pass of BPF iterators over the threads, mappings and descriptors of each thread group.
// It is not safe for concurrent use.
type Iter struct {
	passes
	progs bpf.IterPrograms
}

var _ kstate.Source = (*Iter)(nil)

// NewIter loads the iterators. Faults: E_BPF_RIGHTS, E_BPF_NO_BTF and E_BPF_LOAD (class KernelLacks) if this kernel or
// our rights do not allow it; a caller then falls back to the proc source.
func NewIter() (*Iter, error) {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.BPFNoBTF, "kernel", "/sys/kernel/btf/vmlinux is not there")
	}
	v, err := view.Own()
	if err != nil {
		return nil, err
	}
	if err := identityMap(v); err != nil {
		return nil, err
	}
	// Kernels before 5.11 charge BPF memory to RLIMIT_MEMLOCK; they are too old anyway, and then the load below says
	// so. The package rlimit of cilium/ebpf, which would lift it, makes BPF maps at every start of a program that links
	// it.
	var objs bpf.IterObjects
	if err := bpf.LoadIterObjects(&objs, nil); err != nil {
		return nil, loadFault("iterators", err)
	}
	it := &Iter{
		progs: objs.IterPrograms,
		passes: passes{
			view: v, task: objs.IterTask, vma: objs.IterVma, file: objs.IterFile, mappedLast: objs.MappedLast,
			wait: &waitProgram{
				prog: objs.WaitCancelled, waits: objs.Waits, level: objs.WaitLevel,
				tracer: objs.WaitTracer,
			},
		},
	}
	objs.Waits = nil
	// but for what we keep, the programs and variables hold what they need
	if err := objs.IterMaps.Close(); err != nil {
		return nil, fault.New(fault.BPFLoad, "iterators", "close maps: %w", err)
	}
	if err := it.probe(); err != nil {
		it.Close()
		return nil, err
	}
	return it, nil
}

// probe runs one pass over ourselves: it shows that the kernel takes a target, and warms what a first pass has to set
// up.
func (it *Iter) probe() error {
	if _, err := it.read(it.task, iterTarget{pid: uint32(os.Getpid())}, nil); err != nil {
		return fault.New(fault.BPFLoad, "iterators", "run over one process: %w", err)
	}
	return nil
}

// loadFault explains why programs did not load.
func loadFault(what string, err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) && !errors.As(err, &verifier):
		return fault.New(fault.BPFRights, what, "the kernel does not let us load BPF programs: %s", refusal())
	default:
		return fault.New(fault.BPFLoad, what, "load: %w", err)
	}
}

// refusal finds out why BPF was refused. What the library guesses, a memory limit, it was not since Linux 5.11.
func refusal() string {
	const sysAdmin, perfmon, bpfRight = 1 << unix.CAP_SYS_ADMIN, 1 << unix.CAP_PERFMON, 1 << unix.CAP_BPF
	v, err := view.Own()
	if err != nil {
		return "not permitted"
	}
	status, err := v.Mine().Status()
	if err != nil {
		return "not permitted"
	}
	var missing []string
	if status.CapEff&(sysAdmin|bpfRight) == 0 {
		missing = append(missing, "CAP_BPF")
	}
	if status.CapEff&(sysAdmin|perfmon) == 0 {
		missing = append(missing, "CAP_PERFMON")
	}
	if len(missing) > 0 {
		return strings.Join(missing, " and ") + " missing"
	}
	if text, err := os.ReadFile("/sys/kernel/security/lockdown"); err == nil &&
		!strings.Contains(string(text), "[none]") {
		return "it is locked down (kernel_lockdown(7)): " + strings.TrimSpace(string(text))
	}
	return "not permitted; a security module or seccomp filter may forbid it"
}

// identityMap refuses user namespaces other than the initial one: records carry ids as the initial one numbers them.
func identityMap(v *view.View) error {
	initial, err := v.InitialIDs()
	if err == nil && !initial {
		err = fault.New(fault.BPFRights, "bpfckpt", "it runs in a user namespace")
	}
	return err
}

// Name implements kstate.Source.
func (it *Iter) Name() string { return "iter" }

// Tells implements kstate.Source.
func (it *Iter) Tells() kstate.Facts { return told() }

// Close unloads the programs.
func (it *Iter) Close() error { return errors.Join(it.progs.Close(), it.wait.waits.Close()) }

// Collect implements kstate.Source.
func (it *Iter) Collect(ctx context.Context, pids []int, g *ptrace.Group) (*kstate.Collected, error) {
	b := &builder{pids: pids, now: readClocks(it.view), stopped: g != nil, files: map[uint64]int{}}
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read kernel state: %w", err)
		}
		if err := it.process(b, pid); err != nil {
			return nil, err
		}
	}
	b.sharing()
	return &b.out, nil
}

// process reads one thread group.
func (it *Iter) process(b *builder, pid int) error {
	raw, err := it.threads(pid)
	if err != nil {
		return err
	}
	p, err := b.process(raw)
	if err != nil {
		return err
	}
	if !p.Zombie {
		if err := it.memoryAndFiles(b, raw, p); err != nil {
			return err
		}
	}
	b.out.Processes = append(b.out.Processes, *p)
	return nil
}

// memoryAndFiles reads the mappings and descriptors of one thread group.
func (it *Iter) memoryAndFiles(b *builder, raw *rawProcess, p *model.Process) error {
	if err := it.mappings(raw); err != nil {
		return err
	}
	if err := b.vmas(raw, p); err != nil {
		return err
	}
	if err := it.descriptors(raw); err != nil {
		return err
	}
	return b.fds(raw, p)
}

func pidName(pid int) string { return "pid " + strconv.Itoa(pid) }

func readFault(pid int, err error) error {
	return fault.New(fault.BPFRead, pidName(pid), "%w", err)
}

func gone(pid int) error {
	return fault.New(fault.TargetGone, pidName(pid), "the kernel has no such thread group any more")
}
