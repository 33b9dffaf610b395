package model

import (
	"slices"
	"testing"
)

// An object is listed once, whoever has it in whatever way, and only if it matters who else does.
func TestShareable(t *testing.T) {
	st := &State{
		Processes: []Process{{
			Pid: 7,
			VMAs: []VMA{
				{Start: 0x1000, End: 0x2000, Kind: VMAShmem, Shmem: 1, Shared: true, Prot: 1, File: MappedFile{Dev: 1, Ino: 10, Path: "/memfd:m"}},
				{Start: 0x2000, End: 0x3000, Kind: VMAShmem, Shmem: 1, Shared: true, Prot: 3, File: MappedFile{Dev: 1, Ino: 10, Path: "/memfd:m"}},
				{Start: 0x3000, End: 0x4000, Kind: VMAFile, Shared: true, Prot: 3, File: MappedFile{Dev: 2, Ino: 20, Path: "/with/a/name"}},
				{Start: 0x4000, End: 0x5000, Kind: VMAShmem, Shmem: 2, File: MappedFile{Dev: 1, Ino: 11, Path: "/memfd:sealed"}},
			},
			FDs: []FD{{Num: 1, File: 6}, {Num: 3, File: 1}, {Num: 4, File: 2}, {Num: 5, File: 3}, {Num: 6, File: 4}, {Num: 7, File: 5}},
		}},
		Files: []File{
			{ID: 1, Kind: "memfd", Dev: 1, Ino: 10, Path: "/memfd:m (deleted)", Shmem: 1, Flags: 2},
			{ID: 2, Kind: "pipe", Dev: 3, Ino: 30, Path: "pipe:[30]", Pipe: 1},
			{ID: 3, Kind: "eventfd", Dev: 4, Ino: 40, Path: "anon_inode:[eventfd]", Of: new(EventFD)},
			{ID: 4, Kind: "regular", Dev: 2, Ino: 21, Path: "/var/log", Flags: 0o2001},
			{ID: 5, Kind: "regular", Dev: 2, Ino: 22, Path: "/data", Flags: 2},
			{ID: 6, Kind: "regular", Dev: 2, Ino: 23, Path: "/out", Flags: 2},
		},
		Shmems: []Shmem{{Dev: 1, Ino: 10}, {Dev: 1, Ino: 11, Seals: 8}},
		Named:  []UnlinkedFile{{Dev: 5, Ino: 50, Path: "/dev/shm/x"}},
	}
	type want struct{ mapped, content, writes bool }
	all := map[ObjectID]want{
		Inode(1, 10): {true, true, true}, Inode(1, 11): {true, false, false}, Inode(3, 30): {false, false, false},
		{Kind: ObjectDescription, Num: 3}: {false, false, false}, Inode(2, 21): {false, false, true},
		Inode(2, 23): {false, false, true}, Inode(5, 50): {true, false, false},
	}
	list := st.Shareable()
	for _, o := range list {
		w, ok := all[o.ID]
		if !ok || o.Mapped != w.mapped || o.Content != w.content || o.Writes != w.writes {
			t.Errorf("%+v, want %+v", o, w)
		}
	}
	if len(list) != len(all) {
		t.Errorf("%d objects, want %d", len(list), len(all))
	}
	if !slices.Equal(list[0].Links, []string{"/memfd:m", "/memfd:m (deleted)"}) || list[0].What != "mapping 1000-2000 of pid 7" {
		t.Errorf("%+v", list[0])
	}
	for _, o := range list {
		if o.ID.Kind == ObjectDescription && (o.Pid != 7 || o.FD != 5) {
			t.Errorf("descriptor %d of pid %d leads to the eventfd", o.FD, o.Pid)
		}
	}
}
