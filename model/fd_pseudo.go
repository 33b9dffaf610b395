package model

var _ = registerFD(FDKind{
	Name: "pseudo", Rank: 100, ByName: true,
	Rows: []FDRow{
		{"`/proc` files of the whole system, sysfs and cgroup files open for reading, `/proc/sys`", "name, position", "opened by name"},
		{"`/proc/PID/…`, namespaces", "refused: they describe a process that will be another one", ""},
		{"files of tracefs, debugfs, bpf, hugetlbfs, mqueue, …", "refused", ""},
		{"other devices", "refused", ""},
	},
})
