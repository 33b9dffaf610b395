package model

var _ = registerFD(FDKind{
	Name: "fifo", Rank: 60, Fields: []string{"Pipe", "Removed"}, ByName: true, NoFollow: true,
	Becomes: holds, Shareable: hasPipe,
	Changed: func(_ *File, have Found) string {
		if have.Mode&typeMask != typeFIFO {
			return "it was a FIFO and no longer is"
		}
		return ""
	},
	Rows: []FDRow{
		{
			"named FIFO, nobody outside has it open",
			"name, content. Refused with content while only ends for writing are open", "opened by name",
		},
		{"the same, its name removed", "content, owner, mode", "a new FIFO, whose name is removed"},
	},
})
