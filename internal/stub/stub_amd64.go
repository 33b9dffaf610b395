package stub

import _ "embed" // the program

//go:embed stub_amd64.elf
var program []byte

// ELF returns the program: a static executable that waits in pause(2) until it is seized.
func ELF() ([]byte, error) { return program, nil }

// Code returns the position-independent code, CodeSize bytes.
func Code() ([]byte, error) { return program[CodeInFile : CodeInFile+CodeSize], nil }
