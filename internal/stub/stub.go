// Package stub holds the tiny program that every restored process starts as. It is machine code because the process it
// runs in is about to lose every mapping it has: no runtime, no stack, no data.
package stub

import (
	_ "embed"
)

//go:generate ./generate.sh

//go:embed stub_amd64.elf
var program []byte

// ELF returns the program: a static executable that waits in pause(2) until it is seized.
func ELF() []byte { return program }

// Layout of the code, in bytes from its start (stub_amd64.S). CodeAt is where the stub's own copy is mapped, CodeInFile
// where it lies in the ELF file.
const (
	CodeAt     = 0x200000100
	CodeInFile = 0x100
	CodeSize   = 256
	Call       = 16  // a `syscall` instruction followed by int3
	Batch      = 32  // the batch loop
	Init       = 128 // the init of a pid namespace
)

// Code returns the position-independent code, CodeSize bytes.
func Code() []byte { return program[CodeInFile : CodeInFile+CodeSize] }

// RecordSize is the size of one record of a batch: number, six arguments, result, flags.
const RecordSize = 72

// KeepGoing is the record flag that lets the batch go on after an error result.
const KeepGoing = 1
