// Package regions finds, in ELF files, the functions of include/bpfckpt.h, which mark regions in which no snapshot may
// be taken.
//
// They are found by the notes that the header makes, not by their names: notes are part of what is loaded, so that
// stripped and static executables have them too, and a look costs a few reads, whatever the size of the file.
package regions

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Marks are the offsets in a file of the instructions that a thread passes when it begins and ends a region; each once.
type Marks struct{ Hold, Release []uint64 }

// Any reports whether there are any.
func (m *Marks) Any() bool { return len(m.Hold)+len(m.Release) > 0 }

// What the notes look like (include/bpfckpt.h).
const (
	owner     = "bpfckpt/1\x00"
	toHold    = 1
	toRelease = 2
)

// maxNotes bounds what is read of one segment of notes, bytes.
const maxNotes = 4 << 20

var errDamaged = errors.New("its notes of regions are damaged")

// Find reads the marks of a file. A file that is no ELF file of this machine's word size has none. The error is for a
// file that cannot be read, or whose notes make no sense: then it is not known where its regions are.
func Find(r io.ReaderAt) (Marks, error) {
	progs, err := segments(r)
	if err != nil {
		return Marks{}, err
	}
	var m Marks
	for _, p := range progs {
		if elf.ProgType(p.Type) != elf.PT_NOTE || p.Filesz == 0 {
			continue
		}
		notes := make([]byte, min(p.Filesz, maxNotes))
		if _, err := r.ReadAt(notes, int64(p.Off)); err != nil {
			if err == io.EOF {
				continue // no note is loaded from behind the end of the file
			}
			return Marks{}, fmt.Errorf("read notes: %w", err)
		}
		if err := m.add(notes, p, progs); err != nil {
			return Marks{}, err
		}
	}
	if slices.ContainsFunc(m.Hold, func(at uint64) bool { return slices.Contains(m.Release, at) }) {
		return Marks{}, fmt.Errorf("%w: one instruction both begins and ends one", errDamaged)
	}
	return m, nil
}

// segments reads the program headers (elf(5)), none of a file that has none we could use.
func segments(r io.ReaderAt) ([]elf.Prog64, error) {
	var h elf.Header64
	err := binary.Read(io.NewSectionReader(r, 0, int64(binary.Size(h))), binary.LittleEndian, &h)
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the ELF header: %w", err)
	case !bytes.HasPrefix(h.Ident[:], []byte(elf.ELFMAG)), elf.Class(h.Ident[elf.EI_CLASS]) != elf.ELFCLASS64,
		elf.Data(h.Ident[elf.EI_DATA]) != elf.ELFDATA2LSB, h.Phentsize != 56:
		return nil, nil
	}
	progs := make([]elf.Prog64, h.Phnum) // 16 bits: 3.6 MiB at most
	err = binary.Read(io.NewSectionReader(r, int64(h.Phoff), int64(h.Phnum)*56), binary.LittleEndian, progs)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil, nil // the kernel does not load such a file
	}
	if err != nil {
		return nil, fmt.Errorf("read the program headers: %w", err)
	}
	return progs, nil
}

// add takes our notes of a segment (elf(5), "Notes (Nhdr)"). They have the same form whichever of the two alignments a
// segment has.
func (m *Marks) add(notes []byte, p elf.Prog64, progs []elf.Prog64) error {
	align := 4
	if p.Align == 8 {
		align = 8
	}
	up := func(n int) int { return (n + align - 1) &^ (align - 1) }
	for pos := 0; pos+12 <= len(notes); {
		rest := notes[pos:]
		nameLen, descLen := int(binary.LittleEndian.Uint32(rest)), int(binary.LittleEndian.Uint32(rest[4:]))
		desc := up(12 + min(nameLen, len(rest)))
		end := desc + min(descLen, len(rest))
		if end > len(rest) || nameLen > len(rest) {
			return nil // no notes, or not ours: ours end with the segment
		}
		if string(rest[12:12+nameLen]) == owner {
			if err := m.take(binary.LittleEndian.Uint32(rest[8:]), rest[desc:end], p.Vaddr+uint64(pos+desc),
				progs); err != nil {
				return err
			}
		}
		pos += up(end)
	}
	return nil
}

// take takes one note, whose content is loaded at addr.
func (m *Marks) take(kind uint32, desc []byte, addr uint64, progs []elf.Prog64) error {
	if len(desc) != 8 {
		return fmt.Errorf("%w: one has %d bytes", errDamaged, len(desc))
	}
	at := addr + binary.LittleEndian.Uint64(desc)
	i := slices.IndexFunc(progs, func(p elf.Prog64) bool {
		return elf.ProgType(p.Type) == elf.PT_LOAD && elf.ProgFlag(p.Flags)&elf.PF_X != 0 && at >= p.Vaddr &&
			at-p.Vaddr < p.Filesz
	})
	if i < 0 {
		return fmt.Errorf("%w: one leads to %#x, where no code is loaded", errDamaged, at)
	}
	list := &m.Hold
	switch kind {
	case toHold:
	case toRelease:
		list = &m.Release
	default:
		return fmt.Errorf("%w: type %d is unknown", errDamaged, kind)
	}
	if at = at - progs[i].Vaddr + progs[i].Off; !slices.Contains(*list, at) {
		*list = append(*list, at)
	}
	return nil
}
