// Package arch states what differs between the processor architectures that this program is built for, as far as more
// than one package has to know it, and what a build lacks. Each architecture has a file; images are judged by the facts
// of their own, whichever this build is for.
//
// Code that belongs to one architecture is in files named for it: *_amd64.go and *_arm64.go, bpf/arch_x86.h and
// bpf/arch_arm64.h. What an architecture cannot do yet returns Lacks there. docs/architectures.md lists all of it, and
// is generated from that code.
package arch

import (
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Arch is what is known of an architecture.
type Arch struct {
	GOARCH      string
	Machine     string // uname -m
	Title       string // as people call it
	AddressEnd  uint64 // end of what a process can map
	SyscallSize uint64 // bytes of the instruction that makes a system call
	SyscallFunc string // what the names of the kernel's functions of system calls begin with
	UntagMask   string // untag_mask of proc_pid_status(5), of a process that has not asked for another
	Audit       uint32 // AUDIT_ARCH_*, by which seccomp filters know it (include/uapi/linux/audit.h)
	lacks       []*Part
}

// all are the architectures that there are.
var all = []*Arch{&x86, &aarch64}

// All returns every architecture, the one that is complete first.
func All() []*Arch { return slices.Clone(all) }

// Lacks returns what a build for the architecture has not got.
func (a *Arch) Lacks() []*Part { return slices.Clone(a.lacks) }

// Of returns the architecture of machines that uname -m calls so, nil if it is none of ours.
func Of(machine string) *Arch {
	for _, a := range all {
		if a.Machine == machine {
			return a
		}
	}
	return nil
}

// Part is something that an architecture has to provide.
type Part struct {
	Name string // of the variable below
	Does string // what cannot be done without it: "stop threads"
	Why  string // what there is to write
}

// What has to be written anew for each architecture. Facts, like the layout of registers, are not here: without them a
// build does not compile.
var (
	InterruptedCalls = &Part{
		"InterruptedCalls", "stop threads",
		"system calls that the stop interrupts would not go on: which they were, and what is left of their time, has to be " +
			"found out another way than on x86-64",
	}
	Injection = &Part{
		"Injection", "make system calls inside a program that runs",
		"the code of the program that makes them, and the signal frame from which a thread finds back, differ",
	}
	WideRegisters = &Part{
		"WideRegisters", "save or restore SVE, SME and other registers that not every processor has",
		"their sizes differ between processors and change while a program runs",
	}
	LargePages = &Part{
		"LargePages", "run on a kernel whose pages are not of 4 KiB",
		"images and the page map count in pages of 4 KiB",
	}
	Stub = &Part{
		"Stub", "restore",
		"the tiny program that every restored process starts as is machine code",
	}
	Subjects = &Part{
		"Subjects", "measure",
		"the test processes of the benchmarks are programs without a C library, and are built for x86-64 only",
	}
)

// Parts returns all of them.
func Parts() []*Part {
	return []*Part{InterruptedCalls, Injection, WideRegisters, LargePages, Stub, Subjects}
}

// Lacks is the error of what this build has not got: for the files of an architecture.
func Lacks(p *Part) error {
	return fault.New(fault.NotPorted, "", "this build for %s cannot %s yet: %s", Host.Title, p.Does, p.Why)
}

// Require is the error of the first part that this build has not got, nil if it has all and works with the pages of
// this kernel: for code that wants to know before it begins.
func Require(wanted ...*Part) error {
	if err := pages(); err != nil {
		return err
	}
	for _, p := range wanted {
		if slices.Contains(Host.lacks, p) {
			return Lacks(p)
		}
	}
	return nil
}
