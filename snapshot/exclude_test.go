package snapshot

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
)

func TestExcluder(t *testing.T) {
	e, err := newExcluder([]string{"[anon:cache]", "/data/*.bin", DontDump})
	if err != nil {
		t.Fatal(err)
	}
	const rw = unix.PROT_READ | unix.PROT_WRITE
	for name, c := range map[string]struct {
		v    model.VMA
		want bool
	}{
		"by name":      {model.VMA{Prot: rw, Name: "anon:cache"}, true},
		"another name": {model.VMA{Prot: rw, Name: "anon:cached"}, false},
		"by pattern":   {model.VMA{Prot: rw, File: model.MappedFile{Path: "/data/a/b.bin"}}, true},
		"no match":     {model.VMA{Prot: rw, File: model.MappedFile{Path: "/data/a/b.bin.1"}}, false},
		"shared":       {model.VMA{Prot: rw, Shared: true, Name: "anon:cache"}, false},
		"code": {model.VMA{
			Prot: unix.PROT_READ | unix.PROT_EXEC,
			File: model.MappedFile{Path: "/data/a.bin"},
		}, false},
		"marked":         {model.VMA{Prot: rw, Flags: []string{"rd", "dd"}}, true},
		"a marked stack": {model.VMA{Prot: rw, Name: "[stack]", Flags: []string{"dd"}}, false},
		"nothing":        {model.VMA{Prot: rw}, false},
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
