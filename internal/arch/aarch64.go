package arch

// aarch64 is arm64. A process with 52-bit addresses gets them on request only; a kernel with fewer than 48 bits has
// nothing further up.
var aarch64 = Arch{
	GOARCH: "arm64", Machine: "aarch64", Title: "arm64",
	AddressEnd:  1 << 48,            // TASK_SIZE (Documentation/arch/arm64/memory.rst)
	SyscallSize: 4,                  // svc #0
	SyscallFunc: "__arm64_sys_",     // arch/arm64/include/asm/syscall_wrapper.h
	UntagMask:   "0xffffffffffffff", // the top byte of an address is always free
	Audit:       0xc00000b7,         // AUDIT_ARCH_AARCH64
	lacks:       []*Part{InterruptedCalls, Injection, WideRegisters, LargePages, Stub, Subjects},
}
