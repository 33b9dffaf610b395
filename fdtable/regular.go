package fdtable

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

const kindRegular = "regular"

var _ = register(kind{
	name: kindRegular, capture: captureRegular, open: openRegular,
})

// classifyOnDisk tells a real file or directory from what the kernel makes up under a file's mode.
func (c *capturer) classifyOnDisk(d *desc, real string) (string, error) {
	if strings.HasPrefix(d.Path, "(unreachable)") {
		return "", d.refuse(fault.FDDeleted, "%s is on a file system that is not mounted here any more", d.Path)
	}
	if !strings.HasPrefix(d.Path, "/") {
		return "", refuseAnon(d) // namespaces have the mode of a file
	}
	fs, err := c.fsType(d)
	if err != nil {
		return "", err
	}
	switch how, name := pseudoFS(fs); {
	case how == pseudoReopen:
		return kindPseudo, nil
	case how == pseudoRefuse:
		return "", d.refuse(fault.FDPseudo, "%s is on %s, whose files hold kernel state that cannot be put back",
			d.Path, name)
	}
	return real, nil
}

// captureRegular records a regular file: it is opened again by name, or becomes an UnlinkedFile if no name leads to it.
func captureRegular(c *capturer, d *desc) error {
	if c.in.Brief && !strings.HasSuffix(d.Path, procfs.Deleted) {
		return nil
	}
	st, ok, err := c.named(d)
	if err != nil {
		return err
	}
	d.Size, d.MTime, d.CTime = st.Size, st.Mtim.Nano(), st.Ctim.Nano()
	if ok {
		return nil
	}
	if st.Nlink == 0 && (strings.HasPrefix(d.Path, "/dev/zero") || strings.HasPrefix(d.Path, "/SYSV")) {
		return d.refuse(fault.FDState, "it is shared memory without a file (%s), which only mappings can be saved of",
			d.Path)
	}
	if st.Nlink > 0 {
		if found, err := c.findLink(d, &st); found || err != nil {
			return err
		}
	}
	d.Unlinked = c.unlinkedFile(&st, strings.TrimSuffix(d.Path, procfs.Deleted))
	if temporary(d.File) {
		c.st.Unlinked[d.Unlinked-1].Flags = d.Flags & (atOpen | unix.O_TMPFILE)
	}
	return nil
}

// temporary tells whether open(2) made the file and the description in one, with O_TMPFILE. F_GETFL shows that for
// good.
func temporary(f *model.File) bool { return f.Flags&unix.O_TMPFILE == unix.O_TMPFILE }

// findLink looks for another name of an unlinked file. If it finds none, and there may be none, it returns false.
func (c *capturer) findLink(d *desc, st *unix.Stat_t) (bool, error) {
	path := strings.TrimSuffix(d.Path, procfs.Deleted)
	if name, ok := FindLink(c.in.View, path, st.Dev, st.Ino); ok {
		d.Path = name
		return true, nil
	}
	fs, err := c.fsType(d)
	if err != nil {
		return false, err
	}
	if path != d.Path && !writable(d.File) && LostOnOverlay(fs, uint64(st.Nlink)) {
		return false, nil
	}
	if d.std > 1 && writable(d.File) && len(d.Locks) == 0 {
		// Where a program runs in a root directory of its own, its output goes to a file outside.
		d.Std = d.std
		return true, nil
	}
	return false, d.refuse(fault.FDDeleted,
		"%s no longer leads to the open file, which lives on under another name (hard link) or below a mount", path)
}

// LostOnOverlay tells whether a file whose name is gone has no other, though it counts one: on an overlay, a file that
// was removed keeps the name it has in the lower layer (Documentation/filesystems/overlayfs.rst), where nobody can
// change it. It holds for files that the tree does not write to: those are in the upper layer.
func LostOnOverlay(fsType int64, nlink uint64) bool {
	return fsType == unix.OVERLAYFS_SUPER_MAGIC && nlink == 1
}

// FindLink looks for a name of a regular file in the directory where the name path was, which has gone: programs make a
// file under a name for the moment, link it to its own and remove the first (sem_open(3)).
func FindLink(v *view.View, path string, dev, ino uint64) (string, bool) {
	dir := filepath.Dir(path)
	entries, err := v.ReadDir(dir)
	if err != nil {
		return "", false
	}
	for _, e := range entries {
		var at unix.Stat_t
		name := filepath.Join(dir, e.Name())
		if e.Type().IsRegular() && v.Lstat(name, &at) == nil && at.Dev == dev && at.Ino == ino {
			return name, true
		}
	}
	return "", false
}

// unlinkedFile returns the 1-based index of the Unlinked of a file, which it makes if there is none yet.
func (c *capturer) unlinkedFile(st *unix.Stat_t, path string) int {
	for i := range c.st.Unlinked {
		if c.st.Unlinked[i].Dev == st.Dev && c.st.Unlinked[i].Ino == st.Ino {
			return i + 1
		}
	}
	c.st.Unlinked = append(c.st.Unlinked, model.UnlinkedFile{
		Path: path, Dev: st.Dev, Ino: st.Ino, Size: st.Size, Mode: st.Mode, UID: st.Uid, GID: st.Gid,
	})
	return len(c.st.Unlinked)
}

// openRegular opens the file again, by name or as what its Unlinked became.
func openRegular(b *builder, f *model.File) (int, error) {
	if f.Unlinked != 0 {
		return b.reopenUnlinked(f)
	}
	now, err := knownFile(f).Find(b.o.View)
	if err != nil {
		return -1, err
	}
	w := b.written[fileKey{f.Dev, f.Ino}]
	if err := checkContent(f, now, w); err != nil {
		return -1, err
	}
	b.noteMove(f, now)
	at := *f
	at.Path = now.Path
	if at.Pos, err = b.growth(f, now, w); err != nil {
		return -1, err
	}
	fd, err := b.openNamed(&at, unix.S_IFREG)
	if err != nil {
		return -1, err
	}
	if !now.isOpenAt(fd) {
		_ = unix.Close(fd)
		return -1, fault.New(fault.FileChanged, f.Path, "it was replaced while it was being opened").
			WithRemedy("restore again when nobody changes it")
	}
	return b.seek(&at, fd)
}

// checkContent holds what the file is now against the record. w is nil unless the tree itself can write to it.
func checkContent(f *model.File, now Known, w *writtenFile) error {
	why := ""
	switch {
	case now.Size < f.Size:
		why = "it had %d bytes at the snapshot and has %d now"
	case w != nil:
		return nil // whatever the tree wrote after the snapshot it will write again
	case now.Size != f.Size:
		why = "it had %d bytes at the snapshot and has %d now"
	case now.MTime != f.MTime:
		return fault.New(fault.FileChanged, f.Path, "it was written to after the snapshot, and it was open for reading")
	default:
		return nil
	}
	return fault.New(fault.FileChanged, f.Path, why, f.Size, now.Size)
}

// noteMove tells once of a file that has another name now.
func (b *builder) noteMove(f *model.File, now Known) {
	key := fileKey{now.Dev, now.Ino}
	if now.Path == f.Path || b.moved[key] {
		return
	}
	b.moved[key] = true
	b.note("%s has been renamed since the snapshot: the program goes on with it as %s", f.Path, now.Path)
}

// NewUnlinked makes the nameless file of an UnlinkedFile with its size, mode and owner, in the directory where it was
// if that is still there and else in the one for temporary files. The content is the caller's to fill in. If
// Unlinked.Flags is not 0, the description itself is one of the image, and RebuildOptions.Temp must return it.
func NewUnlinked(g *model.UnlinkedFile) (*os.File, error) {
	f, err := tmpFile(filepath.Dir(g.Path), g.Flags)
	if err != nil {
		f, err = tmpFile(os.TempDir(), g.Flags)
	}
	if err == nil {
		err = dress(f, g)
	}
	if err != nil {
		return nil, fault.New(fault.FDRebuild, g.Path, "make the deleted file again: %w", err)
	}
	return f, nil
}

// dress gives f owner, mode and size, and closes it if it cannot. The owner comes first: changing it clears set-id
// bits.
func dress(f *os.File, g *model.UnlinkedFile) error {
	fd := int(f.Fd())
	err := unix.Fchown(fd, int(g.UID), int(g.GID))
	if err == nil {
		err = unix.Fchmod(fd, g.Mode&0o7777)
	}
	if err == nil {
		err = unix.Ftruncate(fd, g.Size)
	}
	if err != nil {
		_ = f.Close()
	}
	return err
}

// tmpFile makes a nameless file in dir: with O_TMPFILE, which leaves nothing behind whenever we die, else by unlinking.
func tmpFile(dir string, flags uint32) (*os.File, error) {
	if flags == 0 {
		flags = unix.O_RDWR
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_CLOEXEC|int(flags&atOpen), 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir), nil
	}
	f, err := os.CreateTemp(dir, ".bpfckpt-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func (b *builder) reopenUnlinked(f *model.File) (int, error) {
	unlinkedFile, err := b.unlinkedFD(f)
	if err != nil {
		return -1, err
	}
	if temporary(f) && b.st.Unlinked[f.Unlinked-1].Flags != 0 {
		return b.takeTemp(f)
	}
	fd, err := b.reopen(f, unlinkedFile)
	if err != nil {
		return -1, err
	}
	return b.seek(f, fd)
}

// unlinkedFD returns our descriptor of what an UnlinkedFile became.
func (b *builder) unlinkedFD(f *model.File) (int, error) {
	if f.Unlinked < 1 || f.Unlinked > len(b.st.Unlinked) || b.o.Unlinked == nil {
		return -1, fault.New(fault.FDRecord, fileObject(f), "it names deleted file %d of %d", f.Unlinked, len(b.st.Unlinked))
	}
	unlinkedFile, err := b.o.Unlinked(f.Unlinked - 1)
	if err != nil {
		return -1, err
	}
	return int(unlinkedFile.Fd()), nil
}

// takeTemp takes the description that made the file as it is.
func (b *builder) takeTemp(f *model.File) (int, error) {
	if b.temps[f.Unlinked] || b.o.Temp == nil {
		return -1, fault.New(fault.FDRecord, fileObject(f), "deleted file %d was made by two descriptions", f.Unlinked)
	}
	b.temps[f.Unlinked] = true
	temp, err := b.o.Temp(f.Unlinked - 1)
	if err != nil {
		return -1, err
	}
	fd, err := b.original(f, int(temp.Fd()))
	if err != nil {
		return -1, err
	}
	return b.seek(f, fd)
}
