package fault

// Codes about finding, stopping and tracing a target.
const (
	NoSuchPid    Code = "E_NO_SUCH_PID"
	KernelThread Code = "E_KERNEL_THREAD"
	Self         Code = "E_SELF"
	IsZombie     Code = "E_ZOMBIE"
	NoRights     Code = "E_NO_RIGHTS"
	Traced       Code = "E_TRACED"
	Freeze       Code = "E_FREEZE"
	TargetGone   Code = "E_TARGET_GONE"
	Ptrace       Code = "E_PTRACE"
)

var targetCodes = []Entry{
	{NoSuchPid, Failed, "no such process", "No process has this pid in our pid namespace.", "check the pid with ps"},
	{
		KernelThread, Unsupported, "a kernel thread", "Kernel threads have no user memory and cannot be saved.",
		"name a user process",
	},
	{
		Self, Unsupported, "bpfckpt itself",
		"The process is this command or one of its ancestors in the same tracer role.", "name another process",
	},
	{
		IsZombie, Unsupported, "the process has already ended",
		"It is a zombie: only its exit status is left, waiting for its parent.",
		"nothing can be saved; its parent should wait for it",
	},
	{NoRights, Failed, "not allowed", "The kernel denies ptrace access to this process (ptrace(2), \"Ptrace access mode checking\").", "run as root, or as the owner of the process with CAP_SYS_PTRACE"},
	{
		Traced, Unsupported, "another tracer is attached",
		"A thread has at most one tracer (gdb, strace, another snapshot).", "detach the other tracer first",
	},
	{
		Freeze, Failed, "a thread did not stop in time",
		"A thread stayed in uninterruptible sleep, or kept making new threads, past the deadline.",
		"try again; if it persists, look at the I/O the named thread waits for",
	},
	{
		TargetGone, Failed, "the process ended meanwhile",
		"The target exited or was killed while it was being worked on.",
		"nothing to do: it is gone",
	},
	{
		Ptrace, Failed, "a ptrace request failed",
		"The kernel refused a ptrace request that should succeed on a stopped thread.", "report it with the message",
	},
}
