package model

var _ = registerFD(FDKind{
	Name: "dir", Rank: 20, Fields: []string{"Removed"}, ByName: true, Becomes: opensAt,
	Changed: func(f *File, have Found) string {
		switch {
		case have.Mode&typeMask != typeDir:
			return "it was a directory and no longer is"
		case f.Pos != 0 && (have.Dev != f.Dev || have.Ino != f.Ino):
			return "it was being listed, and is another directory now"
		}
		return ""
	},
	Rows: []FDRow{
		{"directory", "name, position", "opened by name; half-read listings go on"},
		{"removed directory", "owner, mode", "a new one, whose name is removed"},
	},
})
