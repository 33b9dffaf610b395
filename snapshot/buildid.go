package snapshot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/buildid"
	"github.com/bpfckpt/bpfckpt/model"
)

// addBuildIDs completes the mapped files that still have their names. It reads the files, so it is to run after the
// thaw; a file that was replaced meanwhile gets none, and size and time tell restore about it.
func addBuildIDs(st *model.State) {
	known := map[inode]string{}
	add := func(f *model.MappedFile) {
		if f.Path == "" || f.Unlinked != 0 || f.Size == 0 {
			return
		}
		key := inode{f.Dev, f.Ino}
		id, ok := known[key]
		if !ok {
			id = fileBuildID(f)
			known[key] = id
		}
		f.BuildID = id
	}
	for i := range st.Processes {
		p := &st.Processes[i]
		add(&p.Exe)
		for j := range p.VMAs {
			if p.VMAs[j].Kind == model.VMAFile {
				add(&p.VMAs[j].File)
			}
		}
	}
}

func fileBuildID(m *model.MappedFile) string {
	f, err := openSame(m)
	if err != nil {
		return ""
	}
	defer f.Close()
	return buildid.Of(f)
}

// openSame opens a mapped file by its name, and fails if that no longer leads to the same, unchanged file.
func openSame(m *model.MappedFile) (*os.File, error) {
	f, err := os.OpenFile(m.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && (st.Dev != m.Dev || st.Ino != m.Ino || st.Size != m.Size || st.Mtim.Nano() != m.MTime) {
		err = fmt.Errorf("%s: %w", m.Path, os.ErrNotExist)
	}
	if err != nil {
		_ = f.Close() // read only
		return nil, err
	}
	return f, nil
}
