// Package features finds out what this kernel can do for snapshots and restores, by trying: versions lie, and a right
// that is missing is not a feature that is missing. Every probe works on this process, or on a child of its own that
// never runs an instruction, and leaves nothing behind.
package features

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Outcome is what a probe found.
type Outcome string

// The outcomes.
const (
	Yes     Outcome = "yes"     // it was tried and worked
	No      Outcome = "no"      // the kernel does not have it
	Unknown Outcome = "unknown" // it could not be told, mostly for lack of rights
)

// Feature is something a kernel may have.
type Feature struct {
	Name     string // stable, for scripts: "clone3_set_tid"
	Title    string // for people
	For      string // what needs it: "snap", "restore", "incremental snap"
	Since    string // first kernel release that has it, "5.5"
	Required bool   // there is no other way to do what it is For
	Remedy   string // what to do without it; in a Result, what to do after this outcome
	probe    func() error
}

// Result is the outcome for one feature.
type Result struct {
	Feature
	Outcome Outcome
	Detail  string // why not, "" for Yes
}

// Probe tries every feature, in the order of the table.
func Probe() []Result {
	var out []Result
	for _, f := range table() {
		out = append(out, f.try())
	}
	return out
}

// Try tries one feature of the table.
func Try(name string) Result {
	for _, f := range table() {
		if f.Name == name {
			return f.try()
		}
	}
	return Result{Feature{Name: name}, Unknown, "there is no feature of this name"}
}

func (f Feature) try() Result {
	err := f.probe()
	switch {
	case err == nil:
		return Result{f, Yes, ""}
	case errors.Is(err, errNoBTF):
		f.Remedy = "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y; the source proc is used instead"
		return Result{f, No, err.Error()}
	case errors.Is(err, errAbsent):
		return Result{f, No, err.Error()}
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		if f.Remedy = asRoot; os.Geteuid() == 0 {
			f.Remedy = "run outside of the sandbox or container, or with more capabilities"
		}
		return Result{f, Unknown, fmt.Sprintf("not allowed: %v", err)}
	}
	return Result{f, Unknown, err.Error()}
}

// errAbsent is wrapped by the error of a probe that found out that the kernel does not have the feature.
var errAbsent = errors.New("the kernel does not have it")

// absent classifies the error of a system call: the errnos in missing say that the feature does not exist.
func absent(err error, missing ...error) error {
	for _, m := range append(missing, unix.ENOSYS) {
		if errors.Is(err, m) {
			return fmt.Errorf("%w (%v)", errAbsent, err)
		}
	}
	return err
}

const (
	newer  = "use kernel %s or later"
	asRoot = "run as root"
)

// table is every feature, in the order users see.
func table() []Feature {
	older := func(release, without string) string { return fmt.Sprintf(newer, release) + "; " + without }
	return []Feature{
		{
			"ptrace_seize", "stopping a process (PTRACE_SEIZE)", "snap", "3.4", true,
			asRoot + ", or allow ptrace (kernel.yama.ptrace_scope, seccomp)", tracing(seizeOptions),
		},
		{
			"ptrace_peeksiginfo", "pending signals (PTRACE_PEEKSIGINFO)", "snap", "3.10", true,
			fmt.Sprintf(newer, "3.10"),
			tracing(peekSigInfo),
		},
		{
			"ptrace_get_rseq", "restartable sequences (PTRACE_GET_RSEQ_CONFIGURATION)", "snap", "5.13", true,
			fmt.Sprintf(newer, "5.13"), tracing(getRseq),
		},
		{
			"ptrace_seccomp_filter", "seccomp filters (PTRACE_SECCOMP_GET_FILTER)", "snap", "4.4", false,
			"programs with seccomp filters cannot be saved; use a kernel with CONFIG_CHECKPOINT_RESTORE",
			tracing(getSeccompFilter),
		},
		{
			"ptrace_get_sud", "syscall user dispatch (PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG)", "snap", "6.4", false,
			"on older kernels programs that use it (Wine) cannot be told apart", tracing(getUserDispatch),
		},
		{
			"process_vm_readv", "memory of a process (process_vm_readv)", "snap", "3.2", true,
			"use a kernel with CONFIG_CROSS_MEMORY_ATTACH", readOwnMemory,
		},
		{
			"pidfd_getfd", "descriptors of a process (pidfd_getfd)", "snap", "5.6", true, fmt.Sprintf(newer, "5.6"),
			getOwnFD,
		},
		{
			"kcmp", "which descriptors are shared (kcmp)", "snap", "3.5", false,
			older("5.12", "without BPF, shared descriptors cannot be told"), compareOwnFDs,
		},
		{
			"bpf_iter_task", "processes by BPF iterator (task)", "snap, source iter", "5.8", false,
			older("5.8", "the source proc is used instead"), iterator("task"),
		},
		{
			"bpf_iter_task_vma", "mappings by BPF iterator (task_vma)", "snap, source iter", "5.12", false,
			older("5.12", "the source proc is used instead"), iterator("task_vma"),
		},
		{
			"bpf_iter_task_file", "descriptors by BPF iterator (task_file)", "snap, source iter", "5.8", false,
			older("5.8", "the source proc is used instead"), iterator("task_file"),
		},
		{
			"pagemap_scan", "finding pages (PAGEMAP_SCAN)", "snap", "6.7", false,
			older("6.7", "page tables are read entry by entry instead"), scanPagemap,
		},
		{
			"clone3_set_tid", "processes with given ids (clone3 set_tid)", "restore", "5.5", true,
			asRoot + " (CAP_CHECKPOINT_RESTORE), on kernel 5.5 or later", cloneWithID,
		},
		{
			"set_mm_map", "the layout of a process (PR_SET_MM_MAP)", "restore", "3.18", true,
			"use a kernel with CONFIG_CHECKPOINT_RESTORE", setMMMap,
		},
		{
			"suspend_seccomp", "rebuilding under seccomp filters (PTRACE_O_SUSPEND_SECCOMP)", "restore", "4.3", false,
			"programs with seccomp filters cannot be restored; run as root on a kernel with CONFIG_CHECKPOINT_RESTORE",
			tracing(suspendSeccomp),
		},
		{
			"timer_ids", "timers with given ids (PR_TIMER_CREATE_RESTORE_IDS)", "restore", "6.15", false,
			"on older kernels ids are reached by making timers until they fit", timerIDs,
		},
		{
			"pid_namespace", "a pid namespace of its own (CLONE_NEWPID)", "restore --pidns", "3.8", false, asRoot,
			unshare(unix.CLONE_NEWPID, "pid"),
		},
		{
			"time_namespace", "clocks that go on (CLONE_NEWTIME)", "restore after a reboot", "5.6", false,
			older("5.6", "CLOCK_MONOTONIC jumps when a process is restored after a reboot"),
			unshare(unix.CLONE_NEWTIME, "time"),
		},
		{
			"uffd_lazy", "memory that comes later (UFFDIO_COPY, UFFDIO_POISON)", "restore --lazy", "6.6", false,
			older("6.6", "restore without --lazy"), lazyPages,
		},
		{
			"uffd_wp_async", "written pages by userfaultfd (UFFD_FEATURE_WP_ASYNC)", "incremental snap", "6.7", false,
			older("6.7", "soft-dirty bits or comparison are used instead"), trackByUffd,
		},
		{
			"soft_dirty", "written pages by soft-dirty bits (clear_refs)", "incremental snap", "3.11", false,
			"use a kernel with CONFIG_MEM_SOFT_DIRTY; userfaultfd or comparison are used instead", trackBySoftDirty,
		},
	}
}
