// Package buildid reads the GNU build-id of ELF files, by which two builds of a file are told apart whatever their
// times are.
package buildid

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"io"
)

// Bounds of what is read of an ELF file in search of its build-id.
const (
	maxNote = 64 << 10
	maxID   = 64

	noteBuildID = 3 // NT_GNU_BUILD_ID (elf.h)
)

// Of returns the GNU build-id of an ELF file in hex, "" if the file has none or is no ELF file for this machine's word
// size.
func Of(r io.ReaderAt) string {
	var h elf.Header64
	if err := binary.Read(io.NewSectionReader(r, 0, int64(binary.Size(h))), binary.LittleEndian, &h); err != nil {
		return ""
	}
	if !bytes.HasPrefix(h.Ident[:], []byte(elf.ELFMAG)) || elf.Class(h.Ident[elf.EI_CLASS]) != elf.ELFCLASS64 ||
		h.Phentsize != 56 {
		return ""
	}
	progs := make([]elf.Prog64, h.Phnum) // 16 bits: 3.6 MiB at most
	if err := binary.Read(io.NewSectionReader(r, int64(h.Phoff), int64(h.Phnum)*56), binary.LittleEndian,
		progs); err != nil {
		return ""
	}
	for _, p := range progs {
		if elf.ProgType(p.Type) != elf.PT_NOTE || p.Filesz > maxNote {
			continue
		}
		notes := make([]byte, p.Filesz)
		if _, err := r.ReadAt(notes, int64(p.Off)); err != nil {
			continue
		}
		if id := noteID(notes, int(p.Align)); id != "" {
			return id
		}
	}
	return ""
}

// noteID finds NT_GNU_BUILD_ID among the notes of a segment (elf(5), "Notes (Nhdr)").
func noteID(notes []byte, align int) string {
	if align != 8 {
		align = 4
	}
	up := func(n int) int { return (n + align - 1) &^ (align - 1) }
	for len(notes) >= 12 {
		nameLen := int(binary.LittleEndian.Uint32(notes))
		descLen := int(binary.LittleEndian.Uint32(notes[4:]))
		kind := binary.LittleEndian.Uint32(notes[8:])
		if nameLen > len(notes) || descLen > len(notes) {
			return ""
		}
		desc := up(12 + nameLen)
		end := desc + descLen
		if end > len(notes) {
			return ""
		}
		if kind == noteBuildID && string(notes[12:12+nameLen]) == "GNU\x00" && descLen <= maxID {
			return hex.EncodeToString(notes[desc:end])
		}
		notes = notes[min(up(end), len(notes)):]
	}
	return ""
}
