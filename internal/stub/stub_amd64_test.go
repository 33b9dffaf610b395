package stub

import (
	"bytes"
	"debug/elf"
	"testing"
)

// TestLayout holds the constants against the committed binary: the entry points begin with the instructions they are
// named for.
func TestLayout(t *testing.T) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	if f.Entry != CodeAt {
		t.Errorf("entry is %#x, not %#x", f.Entry, uint64(CodeAt))
	}
	var load *elf.Prog
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD {
			load = p
		}
	}
	if load == nil || load.Off != CodeInFile || load.Filesz != CodeSize || load.Vaddr != CodeAt {
		t.Fatalf("load segment is %+v", load)
	}
	code, err := Code()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at   int
		want []byte
	}{
		{0, []byte{0xb8, 0x22}},                   // mov $34, %eax
		{Call, []byte{0x0f, 0x05, 0xcc}},          // syscall; int3
		{Batch, []byte{0x48, 0x39, 0xeb}},         // cmp %rbp, %rbx
		{Init, []byte{0xb8, 0x3d, 0, 0, 0, 0x48}}, // mov $61, %eax
	} {
		if !bytes.HasPrefix(code[c.at:], c.want) {
			t.Errorf("code at %d is % x, want % x", c.at, code[c.at:c.at+8], c.want)
		}
	}
}
