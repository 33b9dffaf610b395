package stub

import "github.com/bpfckpt/bpfckpt/internal/arch"

// ELF would return the program.
func ELF() ([]byte, error) { return nil, arch.Lacks(arch.Stub) }

// Code would return its code.
func Code() ([]byte, error) { return nil, arch.Lacks(arch.Stub) }
