package fdtable

import (
	"slices"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// anonKinds are the objects behind descriptors without a file type, by the start of their name in /proc/PID/fd.
var anonKinds = []struct{ prefix, what, remedy string }{
	{"anon_inode:[fanotify]", "a fanotify group", "let the program stop watching, or save it while it does not"},
	{
		"anon_inode:[io_uring]", "an io_uring instance, whose rings and requests in flight are shared with the kernel",
		"run the program without io_uring (many have a setting for it), or save it before it sets one up",
	},
	{"anon_inode:[userfaultfd]", "a userfaultfd", "let the program finish handling page faults, and close it"},
	{"anon_inode:[perf_event]", "a perf event counter", "end the profiling first"},
	{"anon_inode:bpf-prog", "a loaded BPF program", "BPF objects belong to the kernel; close them first"},
	{"anon_inode:bpf-map", "a BPF map", "BPF objects belong to the kernel; close them first"},
	{"anon_inode:bpf_link", "a BPF link", "BPF objects belong to the kernel; close them first"},
	{"anon_inode:bpf_iter", "a BPF iterator", "BPF objects belong to the kernel; close them first"},
	{"anon_inode:btf", "BPF type information", "BPF objects belong to the kernel; close them first"},
	{"anon_inode:[fscontext]", "a file system being mounted (fsopen)", ""},
	{"anon_inode:[landlock-ruleset]", "a Landlock rule set", ""},
	{"anon_inode:seccomp notify", "a seccomp listener", ""},
	{"anon_inode:sync_file", "a graphics fence", ""},
	{"anon_inode:dmabuf", "a DMA buffer", ""},
	{"/dmabuf:", "a DMA buffer", ""},
	{"anon_inode:kvm-", "a virtual machine", "shut the virtual machine down, or use its own snapshots"},
	{"anon_inode:[vfio", "a device passed through to user space", ""},
	{"mnt:[", "a mount namespace", ""},
	{"net:[", "a network namespace", ""},
	{"pid:[", "a pid namespace", ""},
	{"pid_for_children:[", "a pid namespace", ""},
	{"user:[", "a user namespace", ""},
	{"ipc:[", "an IPC namespace", ""},
	{"uts:[", "a UTS namespace", ""},
	{"cgroup:[", "a cgroup namespace", ""},
	{"time:[", "a time namespace", ""},
	{"time_for_children:[", "a time namespace", ""},
}

// RefusedKind is an object behind descriptors that cannot be saved, and what to do about it.
type RefusedKind struct{ What, Remedy string }

// RefusedKinds returns the objects behind descriptors without a file type that cannot be saved, for the documentation.
func RefusedKinds() []RefusedKind {
	var out []RefusedKind
	for _, k := range anonKinds {
		if isSaved(k.prefix) {
			continue
		}
		remedy := k.remedy
		if remedy == "" {
			remedy = "let the program close it first"
		}
		if r := (RefusedKind{k.what, remedy}); !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// isSaved tells whether what has such links is of a kind that can be saved.
func isSaved(prefix string) bool {
	for link := range byLink {
		if strings.HasPrefix(link, prefix) {
			return true
		}
	}
	return false
}

// anonName describes an object by its name in /proc/PID/fd.
func anonName(path string) (what, remedy string) {
	for _, k := range anonKinds {
		if strings.HasPrefix(path, k.prefix) {
			return k.what, k.remedy
		}
	}
	return "a kernel object of a kind this version does not know", ""
}

// refuseAnon names the object behind a descriptor that cannot be saved.
func refuseAnon(d *desc) *fault.Error {
	what, remedy := anonName(d.Path)
	e := d.refuse(fault.FDKind, "it is %s (%s)", what, d.Path)
	if remedy != "" {
		return e.WithRemedy("%s", remedy)
	}
	return e
}
