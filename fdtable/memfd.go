package fdtable

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

const kindMemfd = "memfd"

var _ = register(kind{
	name: kindMemfd, silent: true, capture: captureMemfd, open: openMemfd,
	is: func(d *desc) bool { return d.hasType(unix.S_IFREG) && strings.HasPrefix(d.Path, "/memfd:") },
})

// kindOfMemfd is model.Shmem.Kind of a memfd.
const kindOfMemfd = "memfd"

// captureMemfd records a memfd as a Shmem; a mapping of the same object finds it there by device and inode.
func captureMemfd(c *capturer, d *desc) error {
	fs, err := c.fsType(d)
	if err != nil {
		return err
	}
	if fs != unix.TMPFS_MAGIC {
		return d.refuse(fault.FDState, "the memfd %s is of huge pages", d.Path)
	}
	fd, err := c.dup(d)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return d.refuse(fault.FDRead, "stat it: %w", err)
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return d.refuse(fault.FDRead, "read its seals: %w", err)
	}
	d.Dev, d.Ino, d.Size = st.Dev, st.Ino, st.Size
	d.Shmem = c.shmem(st.Dev, st.Ino)
	if d.Shmem == 0 {
		c.st.Shmems = append(c.st.Shmems, model.Shmem{Dev: st.Dev, Ino: st.Ino})
		d.Shmem = len(c.st.Shmems)
	}
	s := &c.st.Shmems[d.Shmem-1]
	s.Kind, s.Size, s.Mode, s.UID, s.GID, s.Seals = kindOfMemfd, st.Size, st.Mode, st.Uid, st.Gid, uint32(seals)
	s.Name = strings.TrimSuffix(strings.TrimPrefix(d.Path, "/memfd:"), procfs.Deleted)
	return nil
}

// shmem returns the 1-based index of the Shmem with this inode, 0 if there is none.
func (c *capturer) shmem(dev, ino uint64) int {
	for i := range c.st.Shmems {
		if c.st.Shmems[i].Dev == dev && c.st.Shmems[i].Ino == ino {
			return i + 1
		}
	}
	return 0
}

// openMemfd opens what the Shmem became with flags and position of its own.
func openMemfd(b *builder, f *model.File) (int, error) { return b.reopenShmem(f) }

func (b *builder) reopenShmem(f *model.File) (int, error) {
	if f.Shmem < 1 || f.Shmem > len(b.st.Shmems) || b.o.Shmem == nil {
		return -1, fault.New(fault.FDRecord, fileObject(f), "it names shared memory %d of %d", f.Shmem,
			len(b.st.Shmems))
	}
	mem, err := b.o.Shmem(f.Shmem - 1)
	if err != nil {
		return -1, err
	}
	fd, err := -1, error(nil)
	if f.Flags&unix.O_ACCMODE == unix.O_RDWR && !b.made[f.Shmem] {
		b.made[f.Shmem] = true
		fd, err = b.original(f, int(mem.Fd()))
	} else {
		fd, err = b.reopen(f, int(mem.Fd()))
	}
	if err != nil {
		return -1, err
	}
	return b.seek(f, fd)
}

// original takes the description that made an object for the first that could be it. A memfd's does not count as a
// writer, which keeps a file from being executed (execve(2), ETXTBSY), and whatever is opened through /proc/self/fd
// does.
func (b *builder) original(f *model.File, made int) (int, error) {
	fd, err := unix.FcntlInt(uintptr(made), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return -1, fault.New(fault.FDRebuild, fileObject(f), "duplicate it: %w", err)
	}
	return b.checkFlags(f, fd)
}

// NewShmem makes the memfd of a Shmem: name, size and mode, nothing in it and no seals yet. Shared anonymous memory
// becomes a memfd too.
func NewShmem(s *model.Shmem) (*os.File, error) {
	name := s.Name
	if s.Kind != kindOfMemfd {
		name = "shared-anonymous"
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|executability(s))
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fault.New(fault.FDRebuild, "memfd "+name, "make it: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd:"+name)
	if s.UID != 0 || s.GID != 0 {
		err = unix.Fchown(fd, int(s.UID), int(s.GID)) // first: it clears set-id bits
	}
	if err == nil && s.Mode&0o7777 != 0 {
		err = unix.Fchmod(fd, s.Mode&0o7777)
	}
	if err == nil {
		err = unix.Ftruncate(fd, s.Size)
	}
	if err != nil {
		_ = f.Close()
		return nil, fault.New(fault.FDRebuild, "memfd "+name, "set its owner, mode and size: %w", err)
	}
	return f, nil
}

// executability says whether a memfd may be made executable, which else vm.memfd_noexec decides
// (Documentation/userspace-api/mfd_noexec.rst).
func executability(s *model.Shmem) int {
	if s.Seals&unix.F_SEAL_EXEC != 0 && s.Mode&0o111 == 0 {
		return unix.MFD_NOEXEC_SEAL
	}
	return unix.MFD_EXEC
}

// SealLate tells whether the seals of a Shmem come after its mappings: those that could be written to when it was
// sealed against new ones of the kind stay so. A seal against all writes comes before them: there was no such mapping,
// and the kernel makes others read-only for good.
func SealLate(s *model.Shmem) bool {
	return s.Seals&unix.F_SEAL_FUTURE_WRITE != 0 && s.Seals&unix.F_SEAL_WRITE == 0
}

// Seal puts the seals of a Shmem on its file, once it is filled. SealLate tells when.
func Seal(f *os.File, s *model.Shmem) error {
	if s.Kind != kindOfMemfd || s.Seals == 0 {
		return nil
	}
	// F_SEAL_EXEC brings the write seals with it when the file is executable, and F_SEAL_SEAL must come last; one call
	// does all.
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, int(s.Seals)); err != nil {
		return fault.New(fault.FDRebuild, "memfd "+s.Name, "add seals %#x: %w", s.Seals, err)
	}
	return nil
}
