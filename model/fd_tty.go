package model

var _ = registerFD(FDKind{
	Name: "tty", Rank: 80, Fields: []string{"Term"},
	Becomes: func(_ *State, f *File, detach bool) string {
		if detach {
			return f.Path + " becomes /dev/null"
		}
		return f.Path + " becomes the terminal of the restore"
	},
	Rows: []FDRow{
		{
			"terminal", "modes, size",
			"on 0, 1, 2: the restore command's stream; else its controlling terminal, or a stream that is a terminal, as `/dev/tty` or by name as " +
				"before. With `--detach` `/dev/null`. One of another kind (a console, a pseudo-terminal) is told",
		},
		{"terminal that is neither a standard stream nor the controlling one; a serial line under another line discipline", "refused", ""},
		{"controlling side of a pseudo-terminal", "refused", ""},
	},
})
