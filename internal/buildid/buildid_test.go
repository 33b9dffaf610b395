package buildid

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// program is the smallest ELF file with a note of the given owner and content.
func program(t *testing.T, owner string, content []byte) []byte {
	t.Helper()
	const header, entry = 64, 56
	note := binary.LittleEndian.AppendUint32(nil, uint32(len(owner)))
	note = binary.LittleEndian.AppendUint32(note, uint32(len(content)))
	note = binary.LittleEndian.AppendUint32(note, noteBuildID)
	note = append(append(note, owner...), content...)
	h := elf.Header64{Phoff: header, Phentsize: entry, Phnum: 1}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	p := elf.Prog64{Type: uint32(elf.PT_NOTE), Off: header + entry, Filesz: uint64(len(note)), Align: 4}
	var b bytes.Buffer
	for _, part := range []any{h, p, note} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestOf(t *testing.T) {
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"a program", program(t, "GNU\x00", []byte{0xab, 0xcd, 0xef, 1}), "abcdef01"},
		{"somebody else's note", program(t, "Go\x00\x00", []byte{1, 2, 3, 4}), ""},
		{"a script", []byte("#!/bin/sh\n"), ""},
		{"cut short", program(t, "GNU\x00", []byte{1, 2, 3, 4})[:100], ""},
	} {
		if id := Of(bytes.NewReader(c.file)); id != c.want {
			t.Errorf("%s has build-id %q, not %q", c.name, id, c.want)
		}
	}
}
