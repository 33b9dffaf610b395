package model

var _ = registerFD(FDKind{
	Name: "socket", Rank: 90,
	Rows: []FDRow{{"socket", "on 0, 1, 2: re-attached; else refused", "the restore command's stream"}},
})
