package snapshot

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
)

func TestExcluder(t *testing.T) {
	e, err := newExcluder([]string{"[anon:cache]", "/data/*.bin", DontDump})
	if err != nil {
		t.Fatal(err)
	}
	const rw = unix.PROT_READ | unix.PROT_WRITE
	for name, c := range map[string]struct {
		v    image.VMA
		want bool
	}{
		"by name":      {image.VMA{Prot: rw, Name: "anon:cache"}, true},
		"another name": {image.VMA{Prot: rw, Name: "anon:cached"}, false},
		"by pattern":   {image.VMA{Prot: rw, File: image.MappedFile{Path: "/data/a/b.bin"}}, true},
		"no match":     {image.VMA{Prot: rw, File: image.MappedFile{Path: "/data/a/b.bin.1"}}, false},
		"shared":       {image.VMA{Prot: rw, Shared: true, Name: "anon:cache"}, false},
		"code": {image.VMA{
			Prot: unix.PROT_READ | unix.PROT_EXEC,
			File: image.MappedFile{Path: "/data/a.bin"},
		}, false},
		"marked":         {image.VMA{Prot: rw, Flags: []string{"rd", "dd"}}, true},
		"a marked stack": {image.VMA{Prot: rw, Name: "[stack]", Flags: []string{"dd"}}, false},
		"nothing":        {image.VMA{Prot: rw}, false},
	} {
		if got := e.excludes(&c.v); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, bad := range []string{"", "*", "[stack]", "**"} {
		if _, err := newExcluder([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
