package ptrace

const regsetXState = 0x202 // NT_X86_XSTATE

// XState appends the NT_X86_XSTATE register set, in the standard (non-compacted) format, to buf. buf needs room for it:
// the size is that of CPUID leaf 0xd, 11 KiB with AMX.
func (th *Thread) XState(buf []byte) ([]byte, error) {
	room := buf[len(buf):cap(buf)]
	if len(room) < maxXState {
		room = make([]byte, maxXState)
	}
	var n int
	err := th.do("read the extended state", func() (err error) {
		n, err = getRegset(th.Tid, regsetXState, room[:maxXState])
		return err
	})
	return append(buf, room[:n]...), err
}

// maxXState bounds the size of an extended state: today's largest is 11,008 bytes (AMX tile data).
const maxXState = 16 << 10

// SetXState writes the NT_X86_XSTATE register set.
func (th *Thread) SetXState(b []byte) error {
	return th.do("write the extended state", func() error { return setRegset(th.Tid, regsetXState, b) })
}
