package ptrace

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

const (
	regsetIOPerm = 0x201     // NT_386_IOPERM
	offsetDR7    = 848 + 7*8 // offsetof(struct user, u_debugreg[7]), arch/x86/include/asm/user_64.h
	dr7Enabled   = 0xff      // the local and global enable bits of the four breakpoints
)

// HardwareBreakpoints tells whether a debugger left breakpoints in the thread's debug registers.
func (th *Thread) HardwareBreakpoints() (set bool, err error) {
	err = th.do("read the debug registers", func() error {
		var word [8]byte
		_, err := unix.PtracePeekUser(th.Tid, offsetDR7, word[:])
		set = binary.LittleEndian.Uint64(word[:])&dr7Enabled != 0
		return err
	})
	return set, err
}

// IOPorts tells whether the thread was given I/O ports with ioperm(2).
func (th *Thread) IOPorts() (granted bool, err error) {
	err = th.do("read the I/O permissions", func() error {
		var word [8]byte // the first word of the bitmap is enough: without a bitmap there is none
		n, err := getRegset(th.Tid, regsetIOPerm, word[:])
		if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
			return nil // no bitmap, or a kernel built without CONFIG_X86_IOPL_IOPERM
		}
		granted = err == nil && n > 0
		return err
	})
	return granted, err
}
