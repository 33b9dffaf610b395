package fault

// Codes about taking a snapshot: what of a process cannot be saved, and what else can go wrong on the way.
const (
	Mapping      Code = "E_MAPPING"
	ThreadState  Code = "E_THREAD_STATE"
	ProcessState Code = "E_PROCESS_STATE"
	Namespace    Code = "E_NAMESPACE"
	Shared       Code = "E_SHARED"
	Label        Code = "E_LABEL"
	TreeMoves    Code = "E_TREE_MOVES"
	MaxFreeze    Code = "E_MAX_FREEZE"
	Interrupt    Code = "E_INTERRUPTED"
	PageRead     Code = "E_PAGE_READ"
	NoMemory     Code = "E_NO_MEMORY"
	NoSource     Code = "E_NO_SOURCE"
	MappedRead   Code = "E_MAPPED_READ"
	Signal       Code = "E_SIGNAL"
	BadOption    Code = "E_BAD_OPTION"
	Held         Code = "E_HELD"
	Regions      Code = "E_REGIONS"
	// NotRestorable is what a plan refuses because of the host as it is now.
	NotRestorable Code = "E_NOT_RESTORABLE"
)

var snapshotCodes = []Entry{
	{
		Mapping, Unsupported, "a mapping that cannot be saved",
		"The mapping is of a kind, or has a flag, that cannot be rebuilt: device memory, huge page file systems, SysV shared memory, io_uring and aio rings, userfaultfd ranges, protection keys, shadow stacks, or a flag this version does not know.", "unmap it before the snapshot, or run the program without the feature that maps it",
	},
	{
		ThreadState, Unsupported, "a thread state that cannot be saved",
		"The thread uses something that cannot be rebuilt: 32-bit code, segment descriptors of its own, hardware breakpoints, I/O ports, strict seccomp or a seccomp filter with a listener.", "run the program without it",
	},
	{
		ProcessState, Unsupported, "a process state that cannot be saved",
		"The process has state that cannot be rebuilt, for example set-user-id dumpability or SysV semaphore undo lists.", "run the program without it",
	},
	{
		Namespace, Unsupported, "the process is in another namespace",
		"A process is saved from, and restored into, the namespaces of the command; this one is in others (a container, unshare).", "run bpfckpt inside the same namespaces, for example with nsenter or in the container",
	},
	{
		Shared, Unsupported, "tasks share what only threads share, or threads do not share what they should",
		"Processes of the tree share memory, descriptors, handlers or directories (vfork, clone with CLONE_VM or CLONE_FILES), or threads of one process do not share them (unshare).", "try again when a vfork child has called execve; else the program cannot be saved",
	},
	{
		Label, Unsupported, "the process has another security label",
		"A security module (SELinux, AppArmor, ...) confines the process in another way than it confines this command.",
		"run bpfckpt under the same label or profile",
	},
	{
		TreeMoves, Failed, "the process tree did not hold still",
		"New processes kept appearing faster than they could be stopped.", "try again",
	},
	{
		MaxFreeze, Failed, "the freeze would take too long",
		"Copying the memory would take, or took, longer than --max-freeze allows; the target runs on.",
		"allow a longer --max-freeze",
	},
	{
		Interrupt, Interrupted, "interrupted",
		"The command was told to stop; the target runs on and nothing was written.",
		"run the command again",
	},
	{
		PageRead, Failed, "a page of memory cannot be read",
		"The kernel did not return the content of a page that the page tables list, for example because its memory is faulty, its file was cut, or restore --lazy could not bring it.", "look at the kernel log; if the memory was reported faulty, the program cannot be saved; after a restore --lazy that failed, restore the image again",
	},
	{
		NoMemory, Failed, "not enough memory for the copy",
		"The buffers for the copy of the target's memory could not be had.",
		"free memory, or raise the memory limit of this command",
	},
	{
		NoSource, KernelLacks, "no way to read the kernel's state",
		"The source asked for cannot be used on this kernel or with these rights.",
		"run as root, or leave the choice of the source to bpfckpt",
	},
	{
		MappedRead, Unsupported, "a mapped file cannot be read",
		"A file that the process has mapped no longer has a name, and its content cannot be read through the mapping.",
		"run as root (CAP_CHECKPOINT_RESTORE opens /proc/PID/map_files)",
	},
	{
		Signal, Failed, "a signal could not be sent",
		"The image is complete, but the target could not be stopped or killed as asked.", "send the signal with kill",
	},
	{
		Held, Failed, "the program is in a critical section, in which no snapshot may be taken",
		"The program marks such sections (include/bpfckpt.h), and for as long as was waited there was always a thread in one. Nothing was saved; the program runs on.", "try again when the program is done with what it does; if it never leaves, a bpfckpt_release is missing; --ignore-regions takes a snapshot all the same",
	},
	{
		Regions, Unsupported, "the critical sections of the program cannot be seen",
		"The program, or a library of it, marks critical sections, in which no snapshot may be taken (include/bpfckpt.h). Only a watch sees whether a thread is in one; there is none, or it could not probe the file.", "begin a watch before the program is in a critical section: bpfckpt watch PID, or start the program with bpfckpt run; --ignore-regions takes a snapshot all the same",
	},
	{
		NotRestorable, Unsupported, "it could be saved, but not be brought back here",
		"The plan of the restore, which snap makes before it saves anything, finds that this machine, or whoever runs the command, lacks something: rights, limits, a kernel feature, a file by its name.", "read the cause",
	},
	{
		BadOption, Usage, "an option makes no sense", "An option has a value that is not one of the possible ones, or two contradict each other.",
		"see the help of the command",
	},
}
