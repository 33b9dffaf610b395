package ptrace

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	firstTLS       = 12   // GDT_ENTRY_TLS_MIN, arch/x86/include/asm/segment.h
	entriesTLS     = 3    // GDT_ENTRY_TLS_ENTRIES
	emptyDescFlags = 0x28 // read_exec_only | seg_not_present (arch/x86/kernel/tls.c, fill_user_desc)
)

// userDesc is struct user_desc (arch/x86/include/uapi/asm/ldt.h).
type userDesc struct{ entry, base, limit, flags uint32 }

// TLSArray tells whether the thread has segment descriptors of its own (set_thread_area(2), PTRACE_GET_THREAD_AREA). A
// kernel without IA-32 emulation has none to give.
func (th *Thread) TLSArray() (used bool, err error) {
	err = th.do("read segment descriptors", func() error {
		for i := range entriesTLS {
			d := userDesc{flags: emptyDescFlags}
			err := request(unix.PTRACE_GET_THREAD_AREA, th.Tid, firstTLS+uintptr(i), uintptr(unsafe.Pointer(&d)))
			if errors.Is(err, unix.ESRCH) {
				return err
			}
			used = used || d.base != 0 || d.limit != 0 || d.flags != emptyDescFlags
		}
		return nil
	})
	return used, err
}
