package tracer

import (
	"errors"
	"io/fs"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/view"
)

// probes are the loaded and attached programs of one watch.
type probes struct {
	view   *view.View
	objs   bpf.WatchObjects
	links  []link.Link
	method string

	wakeBytes    uint64 // how much must wait in the ring before its reader is woken
	kernelSeq    bool   // the kernel counts the write sequences of the lock of an mm
	lockAttached bool   // the probe of the lock is
}

// usable finds out whether BPF programs can be loaded at all.
func usable(v *view.View) error {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.BPFNoBTF, "kernel", "/sys/kernel/btf/vmlinux is not there")
	}
	return identityMap(v)
}

// loadProbes loads and attaches everything. Nobody is followed yet, so nothing is recorded.
func loadProbes(v *view.View, opts WatchOptions) (*probes, error) {
	spec, err := bpf.LoadWatch()
	if err != nil {
		return nil, fault.New(fault.BPFLoad, "probes", "%w", err)
	}
	spec.Maps["events"].ValueSize = ringMapBytes(opts.RingBytes)
	level, err := v.Level()
	if err != nil {
		return nil, err
	}
	wakeBytes := uint64(opts.RingBytes / 8)
	constants := map[string]any{"reader_level": level, "ring_mask": uint64(opts.RingBytes) - 1, "wake_bytes": wakeBytes}
	if opts.seqs == ownSeq {
		constants["may_use_kernel_turns"] = uint32(0)
	}
	if err := setConstants(spec, constants); err != nil {
		return nil, err
	}
	if err := setTurnPath(spec); err != nil {
		return nil, err
	}
	ps := &probes{view: v, wakeBytes: wakeBytes}
	if err := spec.LoadAndAssign(&ps.objs, nil); err != nil {
		return nil, loadFault("probes", err)
	}
	if err := ps.warmRing(opts.RingBytes); err != nil {
		ps.Close()
		return nil, loadFault("ring", err)
	}
	if err := ps.attachAll(spec, constants, opts); err != nil {
		ps.Close()
		return nil, err
	}
	return ps, nil
}

// warmRing has the kernel write to all of the ring before there are records.
func (ps *probes) warmRing(size int) error {
	for from := 0; from < size; from += int(bpf.WatchRingLayoutRING_WARMED) {
		if _, err := ps.objs.WarmRing.Run(&ebpf.RunOptions{Context: bpf.WatchWarmArg{From: uint64(from)}}); err != nil {
			return err
		}
	}
	return nil
}

func (ps *probes) attachAll(spec *ebpf.CollectionSpec, constants map[string]any, opts WatchOptions) error {
	o := &ps.objs
	for _, prog := range []*ebpf.Program{o.OnFork, o.OnExec, o.OnExit, o.OnSignal} {
		if err := ps.attach(prog); err != nil {
			return loadFault("probes", err)
		}
	}
	var arg bpf.WatchTurnsArg
	if err := ps.readTurns(&arg); err != nil {
		return loadFault("probes", err)
	}
	ps.kernelSeq = arg.Counted != 0
	if !ps.kernelSeq || opts.seqs == probedSeq {
		if err := ps.attachLock(); err != nil {
			return err
		}
		ps.lockAttached = true
	}
	return ps.attachCalls(spec, constants, opts.partly)
}

// attachLock has the write sequences of the lock of every mm seen as they begin.
func (ps *probes) attachLock() error {
	if err := ps.attach(ps.objs.OnTurn); err != nil {
		return loadFault("probe of the mm's lock", err)
	}
	if err := ps.objs.LockProbed.Put(uint32(0), uint32(1)); err != nil {
		return fault.New(fault.BPFLoad, "probe of the mm's lock", "%w", err)
	}
	return nil
}

// setTurnPath tells the probe of the lock of an mm what its tracepoint passes on this kernel: mm, write, success, or
// mm, path, write, success.
func setTurnPath(spec *ebpf.CollectionSpec) error {
	const name = "btf_trace_mmap_lock_acquire_returned"
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return fault.New(fault.BPFNoBTF, "kernel", "%w", err)
	}
	var t *btf.Typedef
	if err := kernel.TypeByName(name, &t); err != nil {
		return fault.New(fault.BPFLoad, "probes", "%w", err)
	}
	if pointer, ok := t.Type.(*btf.Pointer); ok {
		if proto, ok := pointer.Target.(*btf.FuncProto); ok { // its first parameter is the program's own
			switch len(proto.Params) - 1 {
			case 3:
				return setConstants(spec, map[string]any{"turn_path": uint32(0)})
			case 4:
				return setConstants(spec, map[string]any{"turn_path": uint32(1)})
			}
		}
	}
	return fault.New(fault.BPFLoad, "probes", "%s is %v", name, t.Type)
}

func setConstants(spec *ebpf.CollectionSpec, constants map[string]any) error {
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return fault.New(fault.BPFLoad, "probes", "%s: %w", name, err)
		}
	}
	return nil
}

func (ps *probes) attach(prog *ebpf.Program) error {
	l, err := link.AttachTracing(link.TracingOptions{Program: prog})
	if err == nil {
		ps.links = append(ps.links, l)
	}
	return err
}

// attachCalls has the ends of system calls seen: of just those of interest, where the kernel lets programs attach to
// functions, else by the tracepoint that all calls of all processes pass. Where only some functions can be had that is
// better too: all have to pay for the tracepoint then, and to take a program off a function takes the kernel a tenth of
// a second. With partly set, for tests, the tracepoint looks only at the calls that are left.
func (ps *probes) attachCalls(spec *ebpf.CollectionSpec, constants map[string]any, partly bool) error {
	var kinds [512]uint8
	if err := spec.Variables["call_kinds"].Get(&kinds); err != nil {
		return fault.New(fault.BPFLoad, "probes", "which calls: %w", err)
	}
	if others, err := ps.attachFexit(kinds[:], constants, partly); err == nil {
		ps.method = "fexit"
		if len(others) == 0 {
			return nil
		}
		ps.method = "fexit and tracepoint"
		if err := ps.attachOthers(spec, kinds, others); err != nil {
			return loadFault("probes", err)
		}
		return nil
	}
	ps.method = "tracepoint"
	if err := ps.attach(ps.objs.OnCall); err != nil {
		return loadFault("probes", err)
	}
	return nil
}

// passes are the iterators of this watch.
func (ps *probes) passes() *passes {
	return &passes{
		view: ps.view, task: ps.objs.IterTask, vma: ps.objs.IterVma, file: ps.objs.IterFile, mappedLast: ps.objs.MappedLast,
		wait: &waitProgram{
			prog: ps.objs.WaitCancelled, waits: ps.objs.Waits, level: ps.objs.WaitLevel,
			tracer: ps.objs.WaitTracer,
		},
	}
}

// lost is how many records did not fit, in all.
func (ps *probes) lost() uint64 {
	var cpus []bpf.WatchWatchStats
	if err := ps.objs.Stats.Lookup(uint32(0), &cpus); err != nil {
		return 0
	}
	n := uint64(0)
	for _, c := range cpus {
		n += c.Lost
	}
	return n
}

// writeSeqOf is how many write sequences the lock of an mm has had.
func (ps *probes) writeSeqOf(mm uint64) (uint64, error) {
	arg := bpf.WatchTurnsArg{Mm: mm}
	err := ps.readTurns(&arg)
	return arg.Turns, err
}

func (ps *probes) readTurns(arg *bpf.WatchTurnsArg) error {
	_, err := ps.objs.ReadTurns.Run(&ebpf.RunOptions{Context: *arg, ContextOut: arg})
	return err
}

// Close takes the probes away.
func (ps *probes) Close() {
	closeAll(ps.links)
	ps.objs.Close()
}

// closeAll closes links at the same time: for a uprobe the kernel waits a tenth of a second until nobody can be in it
// any more.
func closeAll(links []link.Link) {
	var wg sync.WaitGroup
	for _, l := range links {
		wg.Go(func() { l.Close() })
	}
	wg.Wait()
}
