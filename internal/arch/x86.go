package arch

// x86 is x86-64. A process with 57-bit addresses (five levels of page tables) gets them on request only.
var x86 = Arch{
	GOARCH: "amd64", Machine: "x86_64", Title: "x86-64",
	AddressEnd:  1<<47 - 4096, // TASK_SIZE_MAX (Documentation/arch/x86/x86_64/mm.rst)
	SyscallSize: 2,            // syscall
	SyscallFunc: "__x64_sys_", // arch/x86/include/asm/syscall_wrapper.h
	UntagMask:   "0xffffffffffffffff",
	Audit:       0xc000003e, // AUDIT_ARCH_X86_64
}
