package plan

import (
	"fmt"
	"maps"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// Host is what a plan has to know of the machine, and of whoever brings the state back on it.
type Host struct {
	Facts       []model.Fact       // what an image remembers, to name what has changed since
	Kernel      string             // uname -r
	Machine     string             // uname -m
	XFeatures   uint64             // of x86-64, XCR0: the register sets this CPU offers
	VDSO        []Special          // what the kernel maps into every process, ascending
	VDSOHash    string             // as model.Kernel.VDSOHash
	PidMax      int                // kernel.pid_max: ids are below it
	MapMax      int                // vm.max_map_count: mappings of one process
	PipeMax     int                // fs.pipe-max-size: bytes of a pipe, without CAP_SYS_RESOURCE
	Limits      [16]model.Limit    // ours, by RLIMIT_* number
	Caps        uint64             // our permitted capabilities
	BootID      string             // /proc/sys/kernel/random/boot_id
	CPUs        []uint64           // processors that exist, low word first
	OOMScoreAdj int                // the lowest that we may set
	Files       map[string]File    // what names lead to, for each that the state has
	Features    map[string]Feature // those that the state needs (Needs), by their names in internal/features
	Streams     [3]*Stream         // what our standard streams lead to, nil for a closed one
}

// Feature is whether the kernel has something.
type Feature struct {
	Has    bool
	Detail string // why not
	Remedy string
}

// Special is one of the mappings that the kernel itself puts into a process: the vDSO and its data.
type Special struct {
	Name       string
	Start, End uint64 // bytes
}

// Stream is what a standard stream leads to.
type Stream struct {
	File
	Pos int64 // bytes, of a regular file
}

// Capabilities by their numbers (include/uapi/linux/capability.h).
const capSysResource = 24

func (h *Host) capable(c uint) bool { return h.Caps&(1<<c) != 0 }

// hostRefusals compares the state with the host.
func (b *builder) hostRefusals() {
	b.machine()
	b.features()
	for i := range b.st.Processes {
		p := &b.st.Processes[i]
		b.ids(p)
		if !p.Zombie {
			b.process(p)
		}
	}
	b.pipes()
	b.files()
	b.changedFacts()
}

// pipes checks that pipes can have their capacity.
func (b *builder) pipes() {
	if b.host.PipeMax == 0 || b.host.capable(capSysResource) {
		return
	}
	for i := range b.st.Pipes {
		if p := &b.st.Pipes[i]; p.Capacity > b.host.PipeMax {
			const why = "its capacity is %d bytes, and fs.pipe-max-size, which this command may not exceed, is %d"
			b.refuse(fault.New(fault.RestoreState, fmt.Sprintf("pipe %d", p.Ino), why, p.Capacity, b.host.PipeMax).
				WithRemedy("raise it: sysctl fs.pipe-max-size=%d", p.Capacity))
		}
	}
}

// machine compares the kernel and the CPU.
func (b *builder) machine() {
	if len(b.st.Processes) == 0 {
		return
	}
	k := &b.st.Kernel
	root := &b.st.Processes[0]
	if b.o.Side == Restore && k.Machine != b.host.Machine {
		b.refuse(fault.New(fault.OtherCPU, pidName(root.Pid), "its machine is %s, and this one is %s", k.Machine,
			b.host.Machine).WithRemedy("restore it on a machine of that architecture"))
		return
	}
	if !b.vdsoParts() || b.o.Side != Restore {
		return // before a restore the state is of this machine
	}
	if len(Specials(root)) > 0 && k.VDSOHash != "" && b.host.VDSOHash != k.VDSOHash {
		b.refuse(fault.New(fault.OtherKernel, pidName(root.Pid),
			"the vDSO of this kernel (%s) is another one than that of the image's (%s)", b.host.Kernel, k.Release))
	}
}

// vdsoParts checks that what is left of the vDSO in each process can be had here. It is false if something was refused.
func (b *builder) vdsoParts() bool {
	for i := range b.st.Processes {
		p := &b.st.Processes[i]
		_, err := MatchSpecials(b.host.VDSO, Specials(p))
		switch {
		case err == nil:
			continue
		case b.o.Side == Restore:
			b.refuse(fault.New(fault.OtherKernel, pidName(p.Pid), "%w (image from kernel %s)", err,
				b.st.Kernel.Release))
		default: // the program has cut or split a part, which nobody can do again
			b.refuse(fault.New(fault.Mapping, pidName(p.Pid), "%w", err).
				WithRemedy("let the program leave the mappings of the kernel in one piece"))
		}
		return false
	}
	return true
}

// Specials returns the vDSO's mappings of a process as its record has them, ascending.
func Specials(rec *model.Process) []Special {
	var list []Special
	for i := range rec.VMAs {
		if v := &rec.VMAs[i]; v.Kind == model.VMAVDSO || v.Kind == model.VMAVVar {
			list = append(list, Special{Name: v.Name, Start: v.Start, End: v.End})
		}
	}
	return list
}

// MatchSpecials returns, for each part of the vDSO that is wanted, the one here: of the same name and size. A program
// may have unmapped parts, as valgrind does with the code, or moved them: each goes to its own place.
func MatchSpecials(have, want []Special) ([]Special, error) {
	if len(want) > 0 && len(have) > 0 && have[len(have)-1].End-have[0].Start > VDSORoom {
		return nil, fmt.Errorf("the vDSO takes more than %d bytes", VDSORoom)
	}
	left := slices.Clone(have)
	var list []Special
	for _, w := range want {
		i := slices.IndexFunc(left, func(h Special) bool { return h.Name == w.Name && h.End-h.Start == w.End-w.Start })
		if i < 0 {
			return nil, fmt.Errorf("the vDSO here has no part %s of %d bytes", w.Name, w.End-w.Start)
		}
		list = append(list, left[i])
		left = slices.Delete(left, i, i+1)
	}
	return list, nil
}

// ids checks that the ids of a process can be had.
func (b *builder) ids(p *model.Process) {
	if b.host.PidMax == 0 {
		return
	}
	check := func(id int, what string) {
		if id >= b.host.PidMax {
			b.refuse(fault.New(fault.RestoreState, fmt.Sprintf("%s %d", what, id),
				"its id is not below kernel.pid_max, which is %d", b.host.PidMax).
				WithRemedy("raise it: sysctl kernel.pid_max=%d", max(id+1, 1<<22)))
		}
	}
	check(p.Pid, "pid")
	for i := range p.Threads {
		if tid := p.Threads[i].Tid; tid != p.Pid {
			check(tid, "thread")
		}
	}
}

// process compares what a process has with what whoever restores may give it.
func (b *builder) process(p *model.Process) {
	h := b.host
	b.limits(p)
	if p.OOMScoreAdj < h.OOMScoreAdj {
		b.refuse(fault.New(fault.RestoreState, pidName(p.Pid),
			"its oom_score_adj, %d, is below %d, the lowest that this command may set without CAP_SYS_RESOURCE",
			p.OOMScoreAdj, h.OOMScoreAdj).
			WithRemedy("run bpfckpt with CAP_SYS_RESOURCE, or raise the program's oom_score_adj"))
	}
	// The boot area and the vDSO, which is moved, come in addition for a moment.
	const extra = 4
	if h.MapMax > 0 && len(p.VMAs)+extra > h.MapMax {
		b.refuse(fault.New(fault.RestoreState, pidName(p.Pid),
			"it has %d mappings, and with %d more while it is rebuilt it is over vm.max_map_count, which is %d",
			len(p.VMAs), extra, h.MapMax).WithRemedy("raise it: sysctl vm.max_map_count=%d", 2*len(p.VMAs)))
	}
	for i := range p.Threads {
		b.thread(p, &p.Threads[i])
	}
}

// thread compares the registers, rights and processors of a thread.
func (b *builder) thread(p *model.Process, t *model.Thread) {
	h, object := b.host, threadName(p.Pid, t.Tid)
	if archOf(b.st).Machine == machineX86 {
		b.refuse(h.componentRefusal(object, t))
	}
	b.capabilities(object, (t.Creds.CapPrm|t.Creds.CapEff|t.Creds.CapAmb)&^h.Caps)
	if len(h.CPUs) > 0 && len(t.Affinity) > 0 && !intersect(t.Affinity, h.CPUs) {
		b.refuse(fault.New(fault.RestoreState, object, "it may run only on processors that this machine has not").
			WithRemedy("restore on a machine that has them, or widen the program's affinity (taskset -p) before the snapshot"))
	}
}

// capabilities refuses a thread with capabilities that whoever restores has not. A snapshot of a program that runs on
// may be made with fewer: somebody with more can restore it.
func (b *builder) capabilities(object string, lacks uint64) {
	switch {
	case lacks == 0:
	case b.o.Side != Restore && !b.o.Kill:
		b.note("%s has capabilities that this command has not (%#x): to restore it takes somebody who has them", object,
			lacks)
	default:
		b.refuse(fault.New(fault.RestoreRights, object, "it has capabilities that this command has not (%#x)", lacks).
			WithRemedy("run bpfckpt with at least the capabilities of the program"))
	}
}

func intersect(a, b []uint64) bool {
	for i := range min(len(a), len(b)) {
		if a[i]&b[i] != 0 {
			return true
		}
	}
	return false
}

// Features by their names in internal/features.
const (
	featureSeccomp = "suspend_seccomp"
	featureTime    = "time_namespace"
	featureLazy    = "uffd_lazy"
)

// needs says what of the kernel's features a state needs, and for what.
func needs(st *model.State, bootID string, o Options) map[string]*fault.Error {
	out := map[string]*fault.Error{}
	for i := range st.Processes {
		for j := range st.Processes[i].Threads {
			if t := &st.Processes[i].Threads[j]; t.Seccomp.Mode != 0 {
				out[featureSeccomp] = fault.New(fault.RestoreState, threadName(st.Processes[i].Pid, t.Tid),
					"it has a seccomp filter")
			}
		}
	}
	k := &st.Kernel
	if o.Side == Restore && k.BootID != bootID || k.MonotonicOffset != 0 || k.BoottimeOffset != 0 {
		out[featureTime] = fault.New(fault.RestoreState, "time namespace",
			"the clocks of the image are not those of this boot")
	}
	if o.Lazy {
		out[featureLazy] = fault.New(fault.NoLazy, "restore --lazy", "")
	}
	return out
}

// Needs lists the names of the kernel features that a state needs, sorted.
func Needs(st *model.State, bootID string, o Options) []string {
	return slices.Sorted(maps.Keys(needs(st, bootID, o)))
}

// features checks that the kernel has what the state needs.
func (b *builder) features() {
	wanted := needs(b.st, b.host.BootID, b.o)
	for _, name := range slices.Sorted(maps.Keys(wanted)) { // the same state is refused in the same words
		e := wanted[name]
		if f, ok := b.host.Features[name]; ok && !f.Has {
			sep := ": "
			if e.Cause == "" {
				sep = ""
			}
			b.refuse(fault.New(e.Code, e.Object, "%s%s%s", e.Cause, sep, f.Detail).WithRemedy("%s", f.Remedy))
		}
	}
}

// changedFacts names what has changed since the image was made, for whoever looks for the reason of a refusal.
func (b *builder) changedFacts() {
	if b.o.Side != Restore || len(b.refusals) == 0 {
		return
	}
	for _, was := range b.st.Facts {
		i := slices.IndexFunc(b.host.Facts, func(f model.Fact) bool { return f.Name == was.Name })
		switch {
		case i < 0:
			b.note("%s was %s at the snapshot and is not there now", was.Name, was.Value)
		case b.host.Facts[i].Value != was.Value:
			b.note("%s was %s at the snapshot and is %s now", was.Name, was.Value, b.host.Facts[i].Value)
		}
	}
}
