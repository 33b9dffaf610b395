package subject

import _ "embed" // the programs

var (
	//go:embed src/subject.elf
	subjectELF []byte
	//go:embed src/calls.elf
	callsELF []byte
)

// programs are the two as built.
func programs() (subject, calls []byte, err error) { return subjectELF, callsELF, nil }
