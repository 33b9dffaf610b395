package model

var _ = registerFD(FDKind{
	Name: "path", Rank: 30, Fields: []string{"Unlinked", "Removed"}, ByName: true,
	Becomes: func(st *State, f *File, detach bool) string {
		if f.Unlinked != 0 {
			return opensAt(st, f, detach)
		}
		return ""
	},
	Rows: []FDRow{
		{"`O_PATH`", "name", "opened by name"},
		{
			"the same, of a file, directory, FIFO or symbolic link whose name was removed", "what the file is",
			"leads to what that is made again",
		},
	},
})
