package model

import "fmt"

var _ = registerFD(FDKind{
	Name: "regular", Rank: 10, ByName: true,
	Fields: []string{"Size", "MTime", "CTime", "Born", "Tail", "Others", "Unlinked"},
	Roams:  true, Becomes: opensAt, Shareable: growsShared,
	Rows: []FDRow{
		{
			"regular file", "name, position, flags, size, times, when it was made",
			"the very file, under its name or one in the same directory that it has got since (a rotated log), or a copy of its size and time. " +
				"Open for reading: must not have changed. Open for writing: must not be shorter; what was changed is told, and refused with `--files verify`",
		},
		{
			"the same, opened with `O_APPEND`", "also a hash of what stands before its end",
			"cut back to the recorded size; what is cut off is kept in `tails/` of the store. Not cut if somebody outside the tree has it open for " +
				"writing, or had it at the snapshot: that is told",
		},
		{"the same on 1 or 2, and somebody outside writes to it too", "re-attached", "the restore command's stream; opened by name with `--detach`"},
		{
			"deleted or replaced file, `O_TMPFILE`", "its content. Refused if somebody outside has it open too, and either of the two can write",
			"a nameless file in the same directory, shared by all its descriptors. With owner, mode, extended attributes, times of last access and " +
				"of last change of content, but not of the inode",
		},
		{
			"file that no name leads to: with a hard link in another directory, its own name removed; outside of the root directory",
			"re-attached if it is open for writing, as 1 or 2; otherwise refused",
			"the restore command's stream, `/dev/null` with `--detach`",
		},
	},
})

// opensAt is what a description with a position becomes.
func opensAt(_ *State, f *File, _ bool) string {
	if f.Unlinked != 0 {
		return fmt.Sprintf("open the unlinked file %s, at %d", f.Path, f.Pos)
	}
	return fmt.Sprintf("open %s, at %d", f.Path, f.Pos)
}

// growsShared tells whether it matters who else writes to a file: one that the tree adds to, where what it adds stands
// among what others do, or a standard stream.
func growsShared(f *File, num int) bool {
	mode := f.Flags & accessMode
	adds := f.Flags&appends != 0 || mode == writeOnly && f.Pos == f.Size
	return mode != readOnly && (adds || num < 3)
}
