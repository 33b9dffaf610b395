package model

var _ = registerFD(FDKind{
	Name: "memfd", Rank: 70, Fields: []string{"Size", "Shmem"},
	Rows: []FDRow{{"memfd", "content, name, size, seals, owner, mode, extended attributes, times. Refused if somebody outside has it open too, and either of the two can write", "a new memfd"}},
})
