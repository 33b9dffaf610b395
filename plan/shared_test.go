package plan

import (
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// What two would change is refused; what neither changes, and what only this command has besides, is not.
func TestShared(t *testing.T) {
	file := model.File{ID: 1, Kind: "memfd", Dev: 1, Ino: 10, Path: "/memfd:m (deleted)", Shmem: 1}
	for _, c := range []struct {
		what   string
		flags  uint32
		holder model.Holder
		refuse bool
	}{
		{"they write", 0, model.Holder{Pid: 9, Write: true}, true},
		{"we write", 2, model.Holder{Pid: 9}, true},
		{"nobody writes", 0, model.Holder{Pid: 9}, false},
		{"this command", 2, model.Holder{Pid: 9, Write: true, Ours: true}, false},
	} {
		f := file
		f.Flags = c.flags
		st := &model.State{
			Processes: []model.Process{{Pid: 7, FDs: []model.FD{{Num: 3, File: 1}}}}, Files: []model.File{f},
			Shmems: []model.Shmem{{Dev: 1, Ino: 10}},
		}
		list := Shared(st, model.Holders{model.Inode(1, 10): {c.holder}})
		if (len(list) == 1) != c.refuse {
			t.Errorf("%s: %v", c.what, list)
		}
	}
}
