package host

// xcr0 reads the extended control register 0 (XGETBV): the register sets that the kernel lets programs use. Every CPU
// that runs programs of today in 64-bit mode has it.
func xcr0() uint64
