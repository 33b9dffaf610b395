package snapshot

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// stateBlockers lists everything in a state that restore could not bring back exactly. The state may be that of a running tree.
func stateBlockers(st *image.State) fault.List {
	var list fault.List
	for i := range st.Processes {
		p := &st.Processes[i]
		if p.Zombie {
			continue
		}
		list = append(list, processBlockers(p)...)
		for j := range p.VMAs {
			list = append(list, vmaBlockers(p.Pid, &p.VMAs[j])...)
		}
		for j := range p.Threads {
			list = append(list, threadBlockers(p.Pid, &p.Threads[j])...)
		}
	}
	return list
}

func processBlockers(p *image.Process) fault.List {
	var list fault.List
	if p.MM.Dumpable == 2 {
		list = append(list, fault.New(fault.ProcessState, pidName(p.Pid), "it is dumpable by root only (dumpable 2): it runs, or ran, a set-user-id or unreadable program").
			WithRemedy("run a copy of the program that is readable and not set-user-id"))
	}
	return list
}

func vmaName(pid int, v *image.VMA) string {
	return fmt.Sprintf("mapping %x-%x of pid %d", v.Start, v.End, pid)
}

// vmaLabel is what people call the mapping.
func vmaLabel(v *image.VMA) string {
	switch {
	case v.Name != "":
		return v.Name
	case v.File.Path != "":
		return v.File.Path
	}
	return "anonymous memory"
}

// kindRefusals says why a kind of mapping is not saved, and what to do.
var kindRefusals = map[image.VMAKind][2]string{
	image.VMADevice: {"it maps a device", "close the device before the snapshot"},
	image.VMASysV:   {"it maps a SysV shared memory segment", "detach it (shmdt), or use POSIX shared memory (shm_open) instead"},
	image.VMAOther:  {"it is a mapping of a kind that cannot be rebuilt", "run the program without the feature that maps it"},
}

// flagRefusals says what a flag that cannot be rebuilt stands for; names are those of VmFlags in proc_pid_smaps(5).
var flagRefusals = map[string]string{
	"ht": "huge pages of hugetlbfs",
	"io": "device memory",
	"pf": "memory without page structures",
	"mm": "memory of mixed kinds, as drivers map it",
	"de": "memory that must not grow, as drivers map it",
	"um": "a userfaultfd for missing pages, of its own or because restore --lazy has not brought all of its memory",
	"ui": "a userfaultfd for minor faults",
	"ss": "a shadow stack",
	"sf": "synchronous page faults of a DAX file system",
	"sl": "a seal (mseal)",
}

// flagsRebuilt are the flags restore sets again, or that follow from how the mapping is made.
var flagsRebuilt = []string{
	"rd", "wr", "ex", "sh", // protection and sharing as they are
	"mr", "mw", "me", "ms", // what they may become
	"gd",             // grows down
	"lo", "lf", "nr", // locked, on fault; without reservation
	"ac",       // accounted
	"sr", "rr", // MADV_SEQUENTIAL, MADV_RANDOM
	"dc", "dd", "wf", // MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK
	"hg", "nh", "mg", // MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_MERGEABLE
	"dp", // MAP_DROPPABLE
	"sd", // soft-dirty: says nothing
	"uw", // tracked by us; a process that does so itself has a userfaultfd open, which package fdtable refuses
	"gu", // may have guard regions; which ones is VMA.Guards
}

func vmaBlockers(pid int, v *image.VMA) fault.List {
	if v.Kind == image.VMAVDSO || v.Kind == image.VMAVVar {
		return nil // the kernel makes them, with flags of its own
	}
	if why, ok := kindRefusals[v.Kind]; ok {
		return fault.List{fault.New(fault.Mapping, vmaName(pid, v), "%s: %s", vmaLabel(v), why[0]).WithRemedy("%s", why[1])}
	}
	var list fault.List
	for _, f := range v.Flags {
		if slices.Contains(flagsRebuilt, f) {
			continue
		}
		what, ok := flagRefusals[f]
		if !ok {
			what = "a flag this version does not know"
		}
		list = append(list, fault.New(fault.Mapping, vmaName(pid, v), "%s has the flag %s: %s", vmaLabel(v), f, what))
	}
	// The kernel gives memory that can only be executed the first free key by itself (arch/x86/mm/pkeys.c, execute_only_pkey), and will do so again.
	if v.Pkey != 0 && (v.Pkey != 1 || v.Prot != unix.PROT_EXEC) {
		list = append(list, fault.New(fault.Mapping, vmaName(pid, v), "%s has protection key %d", vmaLabel(v), v.Pkey).
			WithRemedy("run the program without memory protection keys (pkey_mprotect)"))
	}
	return list
}

func threadName(pid, tid int) string { return fmt.Sprintf("thread %d of pid %d", tid, pid) }

const seccompStrict = 1 // SECCOMP_MODE_STRICT

func threadBlockers(pid int, th *image.Thread) fault.List {
	var list fault.List
	if th.Seccomp.Mode == seccompStrict {
		list = append(list, fault.New(fault.ThreadState, threadName(pid, th.Tid), "it is in strict seccomp mode").
			WithRemedy("use a seccomp filter instead"))
	}
	for _, f := range th.Seccomp.Filters {
		if notifies(f.Prog) {
			list = append(list, fault.New(fault.ThreadState, threadName(pid, th.Tid), "one of its seccomp filters asks a supervisor (SECCOMP_RET_USER_NOTIF)").
				WithRemedy("run it without the supervisor"))
			break
		}
	}
	return append(list, registerBlockers(pid, th)...)
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

// notifies tells whether a filter can return SECCOMP_RET_USER_NOTIF. The kernel does not tell whether a filter has a listener; one
// that computes what it returns may have one.
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

// distinct drops repetitions: some things are seen by more than one observer, who say so in the same words. The result is never nil.
func distinct(list fault.List) fault.List {
	type words struct {
		code          fault.Code
		object, cause string
	}
	seen := map[words]bool{}
	out := fault.List{}
	for _, e := range list {
		w := words{e.Code, e.Object, e.Cause}
		if !seen[w] {
			seen[w] = true
			out = append(out, e)
		}
	}
	return out
}
