package ptrace

import (
	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// Injector would make system calls inside the threads of one stopped process.
type Injector struct{}

// Injector would prepare injection.
func (g *Group) Injector(pid int, maps []procfs.Map) (*Injector, error) {
	return nil, arch.Lacks(arch.Injection)
}

// Inject would make th execute calls.
func (in *Injector) Inject(th *Thread, calls []Syscall) error { return arch.Lacks(arch.Injection) }

// Hold would make th execute do, call while, and then make th execute undo.
func (in *Injector) Hold(th *Thread, do Syscall, undo *Syscall, while func(result int64) error) error {
	return arch.Lacks(arch.Injection)
}
