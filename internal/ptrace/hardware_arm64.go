package ptrace

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// Register sets of a debugger's breakpoints and watchpoints (include/uapi/linux/elf.h), struct user_hwdebug_state: 8
// bytes of head, then 16 bytes each: address, control word, padding (arch/arm64/include/uapi/asm/ptrace.h).
const (
	regsetBreak       = 0x402 // NT_ARM_HW_BREAK
	regsetWatch       = 0x403 // NT_ARM_HW_WATCH
	sizeofHWDebug     = 8 + 16*16
	hwDebugControl    = 8 + 8
	hwDebugEnabledBit = 1
)

// HardwareBreakpoints tells whether a debugger left breakpoints in the thread's debug registers.
func (th *Thread) HardwareBreakpoints() (set bool, err error) {
	err = th.do("read the debug registers", func() error {
		for _, kind := range []int{regsetBreak, regsetWatch} {
			var b [sizeofHWDebug]byte
			n, err := getRegset(th.Tid, kind, b[:])
			if absent(err) {
				continue
			}
			if err != nil {
				return err
			}
			for at := hwDebugControl; at+4 <= n; at += 16 {
				set = set || binary.LittleEndian.Uint32(b[at:])&hwDebugEnabledBit != 0
			}
		}
		return nil
	})
	return set, err
}

// absent tells that this kernel or processor has not got a register set.
func absent(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// IOPorts tells whether the thread was given I/O ports: there are none.
func (th *Thread) IOPorts() (granted bool, err error) { return false, nil }

// TLSArray tells whether the thread has segment descriptors of its own: there are no segments.
func (th *Thread) TLSArray() (used bool, err error) { return false, nil }
