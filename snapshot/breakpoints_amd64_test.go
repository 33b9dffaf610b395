package snapshot

import (
	"bytes"
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// TestKnownBreakpoints takes those of a watch out of a page that the program has changed as well.
func TestKnownBreakpoints(t *testing.T) {
	file := bytes.Repeat([]byte{0x90}, model.PageSize)
	page := bytes.Clone(file)
	page[7], page[9], page[11] = breakpoint, 1, breakpoint
	c := codeFiles{points: map[inode][]int64{{5, 6}: {model.PageSize + 7, model.PageSize + 12, 11}}}
	c.restore(&model.MappedFile{Dev: 5, Ino: 6}, model.PageSize, page, file)
	if page[7] != 0x90 || page[9] != 1 || page[11] != breakpoint || page[12] != 0x90 {
		t.Errorf("% x", page[:16])
	}
}

func TestOnlyBreakpoints(t *testing.T) {
	file := bytes.Repeat([]byte{0x90}, model.PageSize)
	page := func(change func(p []byte)) []byte {
		p := bytes.Clone(file)
		change(p)
		return p
	}
	for _, c := range []struct {
		name string
		page []byte
		want bool
	}{
		{"the same", file, true},
		{"one", page(func(p []byte) { p[7] = breakpoint }), true},
		{"one and a change", page(func(p []byte) { p[7], p[9] = breakpoint, 1 }), false},
		{"filled", bytes.Repeat([]byte{breakpoint}, model.PageSize), false},
	} {
		if got := onlyBreakpoints(c.page, file); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
