package model

import "fmt"

var _ = registerFD(FDKind{
	Name: "chardev", Rank: 40, ByName: true,
	Changed: func(f *File, have Found) string {
		if have.Mode&typeMask == typeChar && have.Rdev == f.Rdev {
			return ""
		}
		return fmt.Sprintf("it was character device %d:%d and no longer is", f.Rdev>>8&0xfff, f.Rdev&0xff)
	},
	Rows: []FDRow{{"`/dev/null`, `zero`, `full`, `random`, `urandom`", "name", "opened by name"}},
})
