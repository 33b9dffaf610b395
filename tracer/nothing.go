package tracer

import (
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// AttachNothing attaches a program that does nothing to the tracepoint by which a watch sees the ends of system calls:
// what calls then cost more is the kernel's own share of what a watch costs. It ends with Close.
//
// Faults: E_BPF_LOAD, E_BPF_RIGHTS.
func AttachNothing() (io.Closer, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "nothing", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sys_exit", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return nil, loadFault("a probe that does nothing", err)
	}
	defer prog.Close() // the link holds it
	l, err := link.AttachTracing(link.TracingOptions{Program: prog})
	if err != nil {
		return nil, loadFault("a probe that does nothing", err)
	}
	return l, nil
}
