package fault

// Codes about reading /proc and about queries injected into a stopped thread.
const (
	ProcRead    Code = "E_PROC_READ"
	ProcFormat  Code = "E_PROC_FORMAT"
	FDInfoKey   Code = "E_FDINFO_KEY"
	VMAFlag     Code = "E_VMA_FLAG"
	InjectRoom  Code = "E_INJECT_ROOM"
	InjectCode  Code = "E_INJECT_CODE"
	InjectState Code = "E_INJECT_STATE"
	InjectCall  Code = "E_INJECT_CALL"
)

var procCodes = []Entry{
	{
		ProcRead, Failed, "a file in /proc could not be read",
		"The kernel refused a read below /proc that should succeed for a process that may be traced.",
		"check that /proc is mounted for this pid namespace and without hidepid",
	},
	{
		ProcFormat, Unsupported, "a file in /proc holds something unknown",
		"This kernel reports a field, key or value that this version does not know. What it stands for could be lost, so the process is left alone.", "use a release of bpfckpt that knows this kernel",
	},
	{
		FDInfoKey, Unsupported, "a descriptor has an unknown property",
		"/proc/PID/fdinfo/FD holds a key that this version does not know.",
		"close the descriptor, or use a release of bpfckpt that knows this kernel",
	},
	{
		VMAFlag, Unsupported, "a mapping has an unknown flag",
		"A VmFlags entry in /proc/PID/smaps is not one this version knows.",
		"use a release of bpfckpt that knows this kernel",
	},
	{
		InjectRoom, Unsupported, "no safe place for an injected query",
		"A query from inside a thread needs a few kilobytes of dead stack, and none was found: the stack is nearly full or of an unusual make.", "use a kernel with BPF iterators, which need no injection",
	},
	{
		InjectCode, Unsupported, "no system call instruction to use",
		"Queries are never made with code of ours; neither the vDSO nor any mapped file of the process has the two instruction sequences they need.", "use a kernel with BPF iterators, which need no injection",
	},
	{
		InjectState, Unsupported, "a thread cannot be made to run a query",
		"The thread is in a state in which its registers cannot be borrowed and given back exactly.",
		"use a kernel with BPF iterators, which need no injection",
	},
	{
		InjectCall, Failed, "an injected query failed",
		"A system call made from inside the target failed in a way that means it did not answer.",
		"report it with the message",
	},
}
