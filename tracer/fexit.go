package tracer

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/arch"
)

// fexitPrograms are the programs of bpf/fexit.bpf.c by the kind of call they are for.
var fexitPrograms = map[bpf.WatchCallKind]string{
	bpf.WatchCallKindCALL_MAP:         "fexit_map",
	bpf.WatchCallKindCALL_MAP_AT:      "fexit_map_at",
	bpf.WatchCallKindCALL_MADVISE:     "fexit_madvise",
	bpf.WatchCallKindCALL_OPEN:        "fexit_open",
	bpf.WatchCallKindCALL_OPENAT:      "fexit_openat",
	bpf.WatchCallKindCALL_FD_RET:      "fexit_fd_ret",
	bpf.WatchCallKindCALL_FD_DUP:      "fexit_fd_dup",
	bpf.WatchCallKindCALL_FD_PAIR0:    "fexit_fd_pair0",
	bpf.WatchCallKindCALL_FD_PAIR3:    "fexit_fd_pair3",
	bpf.WatchCallKindCALL_CLOSE:       "fexit_close",
	bpf.WatchCallKindCALL_FCNTL:       "fexit_fcntl",
	bpf.WatchCallKindCALL_IOCTL:       "fexit_ioctl",
	bpf.WatchCallKindCALL_RECVMSG:     "fexit_recvmsg",
	bpf.WatchCallKindCALL_SIGACTION:   "fexit_sigaction",
	bpf.WatchCallKindCALL_SIGALTSTACK: "fexit_sigaltstack",
	bpf.WatchCallKindCALL_SIGPROCMASK: "fexit_sigprocmask",
	bpf.WatchCallKindCALL_SETRLIMIT:   "fexit_setrlimit",
	bpf.WatchCallKindCALL_PRLIMIT:     "fexit_prlimit",
	bpf.WatchCallKindCALL_UMASK:       "fexit_umask",
	bpf.WatchCallKindCALL_PLAIN:       "fexit_plain",
	bpf.WatchCallKindCALL_PATH:        "fexit_path",
	bpf.WatchCallKindCALL_PATH1:       "fexit_path1",
	bpf.WatchCallKindCALL_TURNS:       "fexit_turns",
}

// errPartly means that some functions of interest cannot be had.
var errPartly = errors.New("not all functions of system calls can be told apart")

// attachFexit attaches a program to the function of every call of interest that one can be attached to, and returns the
// other calls that this kernel has; unless partly is set there may be none. On error nothing stays attached.
func (ps *probes) attachFexit(kinds []uint8, constants map[string]any, partly bool) (others []int, err error) {
	spec, err := bpf.LoadFexit()
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if err := setConstants(spec, constants); err != nil {
		return nil, err
	}
	spec.Maps["events"].ValueSize = ps.objs.Events.ValueSize()
	if err := ps.mayFexit(spec); err != nil {
		return nil, err
	}
	if others, err = fexitTargets(spec, kinds); err != nil {
		return nil, err
	}
	if len(others) > 0 && !partly {
		return nil, errPartly
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ps.sharedMaps())
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	defer coll.Close()
	var links []link.Link
	for name, prog := range coll.Programs {
		l, err := link.AttachTracing(link.TracingOptions{Program: prog})
		if err != nil {
			closeAll(links)
			return nil, fmt.Errorf("attach to %s: %w", name, err)
		}
		links = append(links, l)
	}
	ps.links = append(ps.links, links...)
	return others, nil
}

// fexitTargets replaces the programs of spec by one for each call of interest whose function the kernel's types name
// once. Debian's 6.1 names 29 of them twice, with types that differ in nothing of interest; later kernels leave such
// functions out.
func fexitTargets(spec *ebpf.CollectionSpec, kinds []uint8) (others []int, err error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("types of the kernel: %w", err)
	}
	programs, unnamed := map[string]*ebpf.ProgramSpec{}, map[string]int{}
	for nr, kind := range kinds {
		name, ok := fexitPrograms[bpf.WatchCallKind(kind)]
		if !ok {
			continue
		}
		p := spec.Programs[name].Copy()
		p.AttachTo = arch.Host.SyscallFunc + callName(uint16(nr))
		var f *btf.Func
		if kernel.TypeByName(p.AttachTo, &f) == nil {
			programs[p.AttachTo] = p
		} else {
			unnamed[p.AttachTo] = nr
		}
	}
	spec.Programs = programs
	delete(unnamed, arch.Host.SyscallFunc+"setsid") // which many kernels do not name; nothing is kept of it
	return inKernel(unnamed)
}

// inKernel returns the calls whose functions this kernel has; a later call is not in an earlier kernel.
func inKernel(calls map[string]int) (nrs []int, err error) {
	symbols, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, fmt.Errorf("symbols of the kernel: %w", err)
	}
	defer symbols.Close()
	s := bufio.NewScanner(symbols)
	for s.Scan() {
		line := s.Text() // "ffffffff81000000 T name", for a module "\t[name]" behind it
		if nr, ok := calls[line[strings.LastIndexByte(line, ' ')+1:]]; ok {
			nrs = append(nrs, nr)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("symbols of the kernel: %w", err)
	}
	return nrs, nil
}

// attachOthers has the given calls, and no others, seen by the tracepoint.
func (ps *probes) attachOthers(spec *ebpf.CollectionSpec, kinds [512]uint8, calls []int) error {
	for nr := range kinds {
		if !slices.Contains(calls, nr) {
			kinds[nr] = uint8(bpf.WatchCallKindCALL_NONE)
		}
	}
	spec = spec.Copy()
	if err := setConstants(spec, map[string]any{"call_kinds": kinds}); err != nil {
		return err
	}
	spec.Programs = map[string]*ebpf.ProgramSpec{"on_call": spec.Programs["on_call"]}
	coll, err := ebpf.NewCollectionWithOptions(spec, ps.sharedMaps())
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer coll.Close()
	return ps.attach(coll.Programs["on_call"])
}

// mayFexit tries one program, so that a kernel that refuses does so at once.
func (ps *probes) mayFexit(spec *ebpf.CollectionSpec) error {
	one := spec.Copy()
	p := one.Programs["fexit_close"]
	p.AttachTo = arch.Host.SyscallFunc + "close"
	one.Programs = map[string]*ebpf.ProgramSpec{"close": p}
	coll, err := ebpf.NewCollectionWithOptions(one, ps.sharedMaps())
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer coll.Close()
	l, err := link.AttachTracing(link.TracingOptions{Program: coll.Programs["close"]})
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return l.Close()
}

// sharedMaps makes programs use the maps of this watch.
func (ps *probes) sharedMaps() ebpf.CollectionOptions {
	o := &ps.objs
	return ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		"tasks": o.Tasks, "mms": o.Mms, "groups": o.Groups, "events": o.Events, "waker": o.Waker, "stats": o.Stats,
		"lock_probed": o.LockProbed,
	}}
}
