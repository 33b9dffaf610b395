package fault

// Codes about BPF: reading and watching kernel state through it.
const (
	BPFRights Code = "E_BPF_RIGHTS"
	BPFNoBTF  Code = "E_BPF_NO_BTF"
	BPFLoad   Code = "E_BPF_LOAD"
	BPFRead   Code = "E_BPF_READ"
)

var tracerCodes = []Entry{
	{
		BPFRights, KernelLacks, "no right to use BPF",
		"Loading BPF programs needs CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE in the initial user namespace, and a kernel that is not locked down.", "run as root outside a user namespace; a snapshot works without BPF too (--source proc)",
	},
	{
		BPFNoBTF, KernelLacks, "the kernel does not describe its types",
		"BPF programs find kernel structures through BTF (/sys/kernel/btf/vmlinux, CONFIG_DEBUG_INFO_BTF), which this kernel lacks.", "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y; a snapshot works without BPF too (--source proc)",
	},
	{
		BPFLoad, KernelLacks, "the kernel does not accept a BPF program",
		"The kernel lacks a BPF feature the program uses (task iterators with a target: Linux 6.1), or its structures are not as any known release has them.", "use Linux 6.1 or later; a snapshot works without BPF too (--source proc)",
	},
	{
		BPFRead, Failed, "reading kernel state through BPF failed",
		"A BPF iterator stopped with an error or wrote something unexpected.",
		"try again, or use --source proc; report it with the message",
	},
}
