package fdtable

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// sharable tells whether it matters to a description who outside writes to its file too: one that adds lines, which
// stand among those of others, or a standard stream. What has no name, and would become two files, is the business of
// those who save its content.
func sharable(d *desc) bool {
	if d.Kind != kindRegular || !writable(d.File) {
		return false
	}
	adds := d.Flags&unix.O_APPEND != 0 || d.Flags&unix.O_ACCMODE == unix.O_WRONLY && d.Pos == d.Size
	return adds || d.std != 0
}

// sharedFiles looks at who outside has files open that the tree writes to. A standard stream that leads to a file to
// which somebody else writes too is that of the restore.
func (c *capturer) sharedFiles(holders map[string][]ref) {
	for _, d := range c.ofKind(kindRegular) {
		writes := func(r ref) bool { return c.writesSame(d, r) }
		if d.Std != 0 || !sharable(d) || !slices.ContainsFunc(holders[d.Path], writes) {
			continue
		}
		d.Others = true
		if d.std != 0 && len(d.Locks) == 0 {
			d.Std = d.std
		}
	}
}

// writesSame tells whether a descriptor outside leads to the file of d, and can write. Our own is none: what this
// command writes to, it writes for itself.
func (c *capturer) writesSame(d *desc, r ref) bool {
	if r.pid == c.in.View.Self {
		return false
	}
	info, err := procfs.Pid(r.pid).FDInfo(r.fd)
	if err != nil || info.Flags&unix.O_PATH != 0 || info.Flags&unix.O_ACCMODE == unix.O_RDONLY {
		return false
	}
	return isFile(c.in.View, (&desc{pid: r.pid, fd: r.fd}).link(), Known{Dev: d.Dev, Ino: d.Ino})
}

// learnFiles adds what needs no freeze to the records of files that the tree writes to by their names.
func (c *capturer) learnFiles() {
	if c.in.Running {
		return
	}
	born := map[fileKey]int64{}
	birth := func(k Known) int64 {
		key := fileKey{k.Dev, k.Ino}
		if _, ok := born[key]; !ok {
			born[key] = k.birth(c.in.View)
		}
		return born[key]
	}
	for _, d := range c.ofKind(kindRegular) {
		if d.Ghost != 0 || !writable(d.File) {
			continue
		}
		k := knownFile(d.File)
		d.Born = birth(k)
		if d.Flags&unix.O_APPEND != 0 {
			d.Tail = hashTail(c.in.View, d.Path, k, d.Size)
		}
	}
	for i := range c.st.Processes {
		for j := range c.st.Processes[i].VMAs {
			if v := &c.st.Processes[i].VMAs[j]; WritesFile(v) {
				v.File.Born = birth(KnownMapped(&v.File))
			}
		}
	}
}
