// Package stub holds the tiny program that every restored process starts as. It is machine code because the process it
// runs in is about to lose every mapping it has: no runtime, no stack, no data.
package stub

//go:generate ./generate.sh

// Layout of the code, in bytes from its start, the same for each architecture (stub_amd64.S). CodeAt is where the stub's own copy is mapped, CodeInFile
// where it lies in the ELF file.
const (
	CodeAt     = 0x200000100
	CodeInFile = 0x100
	CodeSize   = 256
	Call       = 16  // an instruction that makes a system call, followed by a breakpoint
	Batch      = 32  // the batch loop
	Init       = 128 // the init of a pid namespace
)

// RecordSize is the size of one record of a batch: number, six arguments, result, flags.
const RecordSize = 72

// KeepGoing is the record flag that lets the batch go on after an error result.
const KeepGoing = 1
