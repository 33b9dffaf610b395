package model

import "fmt"

var _ = registerFD(FDKind{
	Name: "pipe", Rank: 50, Fields: []string{"Pipe"}, Becomes: holds, Shareable: hasPipe,
	Rows: []FDRow{
		{"pipe, both ends in the tree", "content, capacity, packets", "a new pipe"},
		{
			"pipe or FIFO with someone outside", "on 0, 1, 2: re-attached; else refused",
			"the restore command's stream",
		},
	},
})

// holds is what an end of a pipe or FIFO becomes.
func holds(st *State, f *File, _ bool) string {
	if f.Pipe == 0 {
		return ""
	}
	return fmt.Sprintf("a %s with %d bytes in it (%s)", f.Kind, len(st.Pipes[f.Pipe-1].Data), f.Path)
}

func hasPipe(f *File, _ int) bool { return f.Pipe != 0 }
