package ptrace

import (
	"bytes"
	"os"
	"slices"
)

// codePiece is how much of a program is read at once, in bytes; pages are whole numbers of it.
const codePiece = 128

// code is what has been read of the code of a process.
type code struct {
	pid    int
	pieces []Range // each of codePiece bytes
	text   []byte  // of all of them, in order
}

// read reads as much of b as there is.
func (c *code) read(at uint64, b []byte) int {
	n := 0
	for n < len(b) {
		from := at + uint64(n)
		piece := c.piece(from &^ (codePiece - 1))
		if piece == nil {
			break
		}
		n += copy(b[n:], piece[from%codePiece:])
	}
	return n
}

func (c *code) piece(at uint64) []byte {
	r := Range{Addr: at, Len: codePiece}
	i := slices.Index(c.pieces, r)
	if i < 0 {
		var piece [codePiece]byte
		if _, err := ReadMemory(c.pid, []Range{r}, piece[:]); err != nil &&
			access(c.pid, at, piece[:], os.O_RDONLY) != nil { // which also reads what can only be executed
			return nil
		}
		i = len(c.pieces)
		c.pieces, c.text = append(c.pieces, r), append(c.text, piece[:]...)
	}
	return c.text[i*codePiece:][:codePiece]
}

// isCall reports whether a system call ends at an address: not by int $0x80, whose calls have other numbers.
func (c *code) isCall(end uint64) bool {
	insn := make([]byte, len(codeSyscall))
	return c.read(end-uint64(len(insn)), insn) == len(insn) && bytes.Equal(insn, codeSyscall)
}

// stays reports whether all that was read is still there.
func (c *code) stays() bool {
	now := make([]byte, len(c.text))
	_, err := ReadMemory(c.pid, c.pieces, now)
	return err == nil && bytes.Equal(now, c.text)
}
