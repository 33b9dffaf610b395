package fdtable

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
)

// sharedFiles looks at who outside has files open that the tree writes to. A standard stream that leads to a file to
// which somebody else writes too is that of the restore. What has no name, and would become two files, is the business
// of those who save its content. We are nobody: what this command writes to, it writes for itself.
func (c *capturer) sharedFiles(held model.Holders) {
	for _, d := range c.ofKind(kindRegular) {
		lowest := slices.MinFunc(d.refs, func(a, b ref) int { return cmp.Compare(a.fd, b.fd) })
		if d.Std != 0 || !d.Shareable(lowest.fd) || !slices.ContainsFunc(held.Others(d.Object()), func(h model.Holder) bool { return h.Write }) {
			continue
		}
		d.Others = true
		if d.std != 0 && len(d.Locks) == 0 {
			d.Std = d.std
		}
	}
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
		if d.Unlinked != 0 || !writable(d.File) {
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
