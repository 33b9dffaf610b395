package fdtable

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// sharable tells whether it matters who outside has a description's file too: one the tree writes to by its name, which
// others may append to; and one without a name, whose content the image holds, so that a restore would make two files
// of one.
func sharable(f *image.File) bool {
	switch f.Kind {
	case kindRegular:
		return writable(f) || f.Ghost != 0
	case kindMemfd:
		return true
	}
	return false
}

// sharedFiles looks at who outside has the files of the tree open. A standard stream that leads to a file that somebody
// else writes to too is that of the restore; a file without a name that only one of the two would go on with is
// refused.
func (c *capturer) sharedFiles(holders map[string][]ref) {
	for _, d := range c.ofKind(kindRegular, kindMemfd) {
		if !sharable(d.File) {
			continue
		}
		for _, r := range holders[d.Path] {
			writes, ok := opensSame(d, r)
			if !ok {
				continue
			}
			nameless := d.Ghost != 0 || d.Shmem != 0
			switch {
			case d.std != 0 && len(d.Locks) == 0 && writes && writable(d.File):
				d.Std, d.Others = d.std, true
			case nameless && (writes || writable(d.File)):
				const why = "%s has no name, and %s outside the tree has it open too: it would become two files"
				c.add(d, d.refuse(fault.FDState, why, d.Path, r.text()).
					WithRemedy("save the process that started them both, or let one of them close it"))
			case writes:
				d.Others = true
				continue
			default:
				continue
			}
			break
		}
	}
}

// opensSame tells whether a descriptor outside leads to the file of d, and whether it can write. Our own is none: what
// this command writes to, it writes for itself.
func opensSame(d *desc, r ref) (writes, ok bool) {
	if r.pid == os.Getpid() {
		return false, false
	}
	info, err := procfs.Pid(r.pid).FDInfo(r.fd)
	link := (&desc{pid: r.pid, fd: r.fd}).link()
	if err != nil || info.Flags&unix.O_PATH != 0 || !isFile(link, Known{Dev: d.Dev, Ino: d.Ino}) {
		return false, false
	}
	return info.Flags&unix.O_ACCMODE != unix.O_RDONLY, true
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
			born[key] = k.birth()
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
			d.Tail = hashTail(d.Path, k, d.Size)
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
