package features

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// btfFile is where the kernel describes its types, without which no program of ours can be loaded.
const btfFile = "/sys/kernel/btf/vmlinux"

// errNoBTF is said of a kernel that was built without that.
var errNoBTF = fmt.Errorf("%w: it does not describe its types (%s is not there)", errAbsent, btfFile)

// iterator loads, attaches and runs an iterator program that does nothing (Documentation/bpf/bpf_iterators.rst).
func iterator(target string) func() error {
	return func() error {
		if _, err := os.Stat(btfFile); errors.Is(err, fs.ErrNotExist) {
			return errNoBTF
		}
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "probe", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: target, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		})
		if err != nil {
			return fmt.Errorf("load: %w", absentBPF(err))
		}
		defer prog.Close()
		it, err := link.AttachIter(link.IterOptions{Program: prog})
		if err != nil {
			return fmt.Errorf("attach: %w", absentBPF(err))
		}
		defer it.Close()
		r, err := it.Open()
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		defer r.Close()
		if _, err := io.Copy(io.Discard, r); err != nil {
			return fmt.Errorf("run: %w", err)
		}
		return nil
	}
}

// absentBPF recognises what the library says about kernels without the feature.
func absentBPF(err error) error {
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, link.ErrNotSupported) {
		return fmt.Errorf("%w (%v)", errAbsent, err)
	}
	if errors.Is(err, unix.EPERM) {
		return unix.EPERM // the library adds advice about memory limits, which are not it
	}
	return absent(err)
}
