package fault

// Codes about bringing an image back.
const (
	PidTaken      Code = "E_PID_TAKEN"
	RestoreStep   Code = "E_RESTORE_STEP"
	OtherKernel   Code = "E_OTHER_KERNEL"
	OtherCPU      Code = "E_OTHER_CPU"
	FileChanged   Code = "E_FILE_CHANGED"
	FileGone      Code = "E_FILE_GONE"
	RestoreRights Code = "E_RESTORE_RIGHTS"
	PidNS         Code = "E_PIDNS"
	RestoreState  Code = "E_RESTORE_STATE"
	NoLazy        Code = "E_NO_LAZY"
	Policy        Code = "E_POLICY"
)

var restoreCodes = []Entry{
	{
		PidTaken, RolledBack, "an id of the image is taken",
		"A process or thread, a process group or a session has an id the image needs.",
		"end the occupant, or restore with --pidns auto",
	},
	{
		RestoreStep, RolledBack, "a step of the restore failed",
		"A system call made for or inside the new process failed; everything made so far has been removed.",
		"read the cause; report it if it names no reason of yours",
	},
	{
		OtherKernel, RolledBack, "the image is from a kernel with another vDSO",
		"The code the kernel maps into every process differs from the one the image was taken with, and addresses in it are in the saved registers and memory.", "restore on a machine that runs the kernel release the image names",
	},
	{
		OtherCPU, RolledBack, "this CPU lacks a register set of the image",
		"The saved register state has components (AVX, AVX-512, ...) that this CPU or hypervisor does not offer.",
		"restore on a CPU with at least these features",
	},
	{
		FileChanged, RolledBack, "a file is not the one the image knows",
		"A file that the process has mapped or open was replaced, changed or cut since the snapshot.",
		"put the file back as it was",
	},
	{
		FileGone, RolledBack, "a file the image needs is not there",
		"A file that the process has mapped or open by name no longer exists.", "put the file back",
	},
	{
		RestoreRights, RolledBack, "not allowed",
		"Restoring needs rights this user lacks, CAP_CHECKPOINT_RESTORE and CAP_SYS_PTRACE among them.", "run as root",
	},
	{
		PidNS, RolledBack, "no pid namespace", "A new pid namespace could not be made.",
		"run as root, or free the ids and use --pidns never",
	},
	{
		NoLazy, KernelLacks, "memory cannot come later",
		"restore --lazy needs a userfaultfd with messages about mappings (Linux 4.11, CAP_SYS_PTRACE) and poisoned pages (Linux 6.6), so that a page that never came is a SIGBUS and not zeros.", "restore without --lazy",
	},
	{
		RestoreState, RolledBack, "a state of the image cannot be rebuilt here",
		"The image holds something this kernel cannot set again.", "read the cause",
	},
	{
		Policy, RolledBack, "the policy refuses it",
		"The process depends on something outside of the image, and --policy says that this is to be refused.",
		"say what is to become of it instead (docs/policy.md), or let the program close it",
	},
}
