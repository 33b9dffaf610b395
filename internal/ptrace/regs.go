package ptrace

import "fmt"

// RegsFrom reads the bytes that Bytes gives.
func RegsFrom(b []byte) (Regs, error) {
	var r Regs
	if len(b) != len(r.Bytes()) {
		return r, fmt.Errorf("registers of %d bytes instead of %d", len(b), len(r.Bytes()))
	}
	copy(r.Bytes(), b)
	return r, nil
}

// RestartBlock is -ERESTART_RESTARTBLOCK (include/linux/errno.h): the kernel continues the call from what it keeps in
// the task.
const RestartBlock = -516
