package plan

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// stateRefusals lists everything in a state that restore could not bring back exactly. The state may be that of a
// running tree.
func stateRefusals(st *model.State) fault.List {
	var list fault.List
	for i := range st.Processes {
		p := &st.Processes[i]
		if p.Zombie {
			continue
		}
		list = append(list, processRefusals(p)...)
		list = append(list, roomRefusals(p, archOf(st).AddressEnd)...)
		for j := range p.VMAs {
			list = append(list, mappingRefusals(p.Pid, &p.VMAs[j])...)
		}
		for j := range p.Threads {
			list = append(list, threadRefusals(p.Pid, &p.Threads[j])...)
			if archOf(st).Machine == machineX86 {
				list = append(list, registerRefusals(p.Pid, &p.Threads[j])...)
			}
		}
	}
	return list
}

func processRefusals(p *model.Process) fault.List {
	var list fault.List
	if p.MM.Dumpable == 2 {
		list = append(list, fault.New(fault.ProcessState, pidName(p.Pid),
			"it is dumpable by root only (dumpable 2): it runs, or ran, a set-user-id or unreadable program").
			WithRemedy("run a copy of the program that is readable and not set-user-id"))
	}
	return list
}

func vmaName(pid int, v *model.VMA) string {
	return fmt.Sprintf("mapping %x-%x of pid %d", v.Start, v.End, pid)
}

// vmaLabel is what people call the mapping.
func vmaLabel(v *model.VMA) string {
	switch {
	case v.Name != "":
		return v.Name
	case v.File.Path != "":
		return v.File.Path
	}
	return "anonymous memory"
}

// RefusedMapping is a kind of mapping that cannot be saved, why, and what to do.
type RefusedMapping struct {
	Kind        model.VMAKind
	Why, Remedy string
}

// kindRefusals is all of them.
var kindRefusals = []RefusedMapping{
	{model.VMADevice, "it maps a device", "close the device before the snapshot"},
	{
		model.VMASysV, "it maps a SysV shared memory segment",
		"detach it (shmdt), or use POSIX shared memory (shm_open) instead",
	},
	{
		model.VMAOther, "it is a mapping of a kind that cannot be rebuilt",
		"run the program without the feature that maps it",
	},
}

// RefusedMappings returns the kinds of mapping that cannot be saved, for the documentation.
func RefusedMappings() []RefusedMapping { return slices.Clone(kindRefusals) }

func mappingRefusals(pid int, v *model.VMA) fault.List {
	if v.Kind == model.VMAVDSO || v.Kind == model.VMAVVar {
		return nil // the kernel makes them, with flags of its own
	}
	if i := slices.IndexFunc(kindRefusals, func(r RefusedMapping) bool { return r.Kind == v.Kind }); i >= 0 {
		r := kindRefusals[i]
		return fault.List{fault.New(fault.Mapping, vmaName(pid, v), "%s: %s", vmaLabel(v), r.Why).
			WithRemedy("%s", r.Remedy)}
	}
	var list fault.List
	for _, name := range v.Flags {
		f, ok := model.VMAFlagOf(name)
		if !ok {
			f = model.VMAFlag{Title: "a flag this version does not know", How: model.FlagRefused}
		}
		if f.How == model.FlagRefused {
			list = append(list, fault.New(fault.Mapping, vmaName(pid, v), "%s has the flag %s: %s", vmaLabel(v), name,
				f.Title))
		}
	}
	if v.NUMA != "" {
		if _, _, err := ParsePolicy(v.NUMA); err != nil {
			list = append(list, fault.New(fault.Mapping, vmaName(pid, v), "%s: %w", vmaLabel(v), err))
		}
	}
	// The kernel gives memory that can only be executed the first free key by itself (arch/x86/mm/pkeys.c,
	// execute_only_pkey), and will do so again.
	if v.Pkey != 0 && (v.Pkey != 1 || v.Prot != protExec) {
		list = append(list, fault.New(fault.Mapping, vmaName(pid, v), "%s has protection key %d", vmaLabel(v), v.Pkey).
			WithRemedy("run the program without memory protection keys (pkey_mprotect)"))
	}
	return list
}

func pidName(pid int) string { return fmt.Sprintf("pid %d", pid) }

func threadName(pid, tid int) string { return fmt.Sprintf("thread %d of pid %d", tid, pid) }

const seccompStrict = 1 // SECCOMP_MODE_STRICT

func threadRefusals(pid int, th *model.Thread) fault.List {
	var list fault.List
	if th.Seccomp.Mode == seccompStrict {
		list = append(list, fault.New(fault.ThreadState, threadName(pid, th.Tid), "it is in strict seccomp mode").
			WithRemedy("use a seccomp filter instead"))
	}
	for _, f := range th.Seccomp.Filters {
		if notifies(f.Prog) {
			list = append(list, fault.New(fault.ThreadState, threadName(pid, th.Tid),
				"one of its seccomp filters asks a supervisor (SECCOMP_RET_USER_NOTIF)").
				WithRemedy("run it without the supervisor"))
			break
		}
	}
	if th.NUMA != "" {
		if _, _, err := ParsePolicy(th.NUMA); err != nil {
			list = append(list, fault.New(fault.ThreadState, threadName(pid, th.Tid), "%w", err))
		}
	}
	return list
}

// Parts of struct sock_filter and return values (include/uapi/linux/filter.h, bpf_common.h, seccomp.h).
const (
	bpfClass      = 0x07
	bpfRet        = 0x06
	bpfRetSource  = 0x18
	bpfRetA       = 0x10
	retAction     = 0xffff0000
	retUserNotify = 0x7fc00000
)

// notifies tells whether a filter can return SECCOMP_RET_USER_NOTIF. The kernel does not tell whether a filter has a
// listener; one that computes what it returns may have one.
func notifies(prog []byte) bool {
	for i := 0; i+8 <= len(prog); i += 8 {
		code := binary.LittleEndian.Uint16(prog[i:])
		if code&bpfClass != bpfRet {
			continue
		}
		k := binary.LittleEndian.Uint32(prog[i+4:])
		if code&bpfRetSource == bpfRetA || k&retAction == retUserNotify {
			return true
		}
	}
	return false
}
