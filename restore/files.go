package restore

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// openFiles opens what the tree has mapped and open, after making what has no name. Nothing of it changes a file.
func (r *restorer) openFiles() error {
	r.mapped = newMappedFiles()
	r.onEnd(r.mapped.close)
	if err := r.makeObjects(); err != nil {
		return err
	}
	if err := r.openNamed(); err != nil {
		return err
	}
	for i := range r.st.Processes {
		rec := &r.st.Processes[i]
		if rec.Zombie {
			continue
		}
		for _, dir := range []string{rec.Cwd, rec.Root} {
			if st, err := os.Stat(dir); err != nil || !st.IsDir() {
				return fault.New(fault.FileGone, dir, "pid %d has it as its working or root directory, and it is not there", rec.Pid).
					WithRemedy("make the directory again")
			}
		}
		for j := range rec.VMAs {
			if key, ok := r.keyOf(&rec.VMAs[j]); ok {
				if err := r.openMapped(key, &rec.VMAs[j].File); err != nil {
					return err
				}
			}
		}
		if err := r.openExe(rec); err != nil {
			return err
		}
	}
	if err := r.step("open descriptors"); err != nil {
		return err
	}
	var err error
	r.table, err = fdtable.Rebuild(r.ctx, r.img, fdtable.RebuildOptions{
		Std: r.o.Std, Detach: r.o.Detach, Verify: r.o.Files == FilesVerify, State: r.st,
		Shmem: func(i int) (*os.File, error) { return r.shmems[i], nil },
		Ghost: func(i int) (*os.File, error) { return r.ghosts[i], nil },
		Temp:  func(i int) (*os.File, error) { return r.temps[i], nil },
	})
	if err != nil {
		return err
	}
	r.onEnd(r.table.Close)
	return nil
}

// openExe opens the executable of a process.
func (r *restorer) openExe(rec *image.Process) error {
	key := exeKey(rec)
	if err := r.openMapped(key, &rec.Exe); err != nil || key.ghost > 0 {
		return err
	}
	f, done, err := r.mapped.files[key].take()
	if err != nil {
		return err
	}
	defer done()
	return checkExecutable(f, &rec.Exe)
}

// notShorter refuses a file that has lost bytes since the snapshot: what is mapped of them would be SIGBUS to touch.
func notShorter(f *os.File, want *image.MappedFile) error {
	st, err := f.Stat()
	if err != nil {
		return fault.New(fault.RestoreStep, want.Path, "%w", err)
	}
	if !st.Mode().IsRegular() {
		return fault.New(fault.FileChanged, want.Path, "it is no longer a regular file")
	}
	if st.Size() < want.Size {
		return fault.New(fault.FileChanged, want.Path, "it is mapped, and it had %d bytes at the snapshot and has %d now",
			want.Size, st.Size())
	}
	return nil
}

// checkSame refuses a file that is not the one that was mapped at the snapshot: pages that the process had not changed come from it.
func checkSame(f *os.File, want *image.MappedFile) error {
	st, err := f.Stat()
	if err != nil {
		return fault.New(fault.RestoreStep, want.Path, "%w", err)
	}
	if isZeroDevice(st) && want.Size == 0 && want.MTime == 0 { // so the image has it
		return nil
	}
	if !st.Mode().IsRegular() {
		return fault.New(fault.FileChanged, want.Path, "it is no longer a regular file")
	}
	if st.Size() == want.Size && st.ModTime().UnixNano() == want.MTime {
		return nil
	}
	if want.BuildID != "" && st.Size() == want.Size && buildID(f) == want.BuildID {
		return nil
	}
	return fault.New(fault.FileChanged, want.Path, "it had %d bytes and was last changed %s at the snapshot; now %d bytes, changed %s",
		want.Size, stamp(want.MTime), st.Size(), stamp(st.ModTime().UnixNano()))
}

// zeroDevice is the number of /dev/zero as stat(2) gives it. Privately mapped it is anonymous memory that shows the name of the device.
const zeroDevice = 1<<8 | 5

func isZeroDevice(st os.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && sys.Mode&unix.S_IFMT == unix.S_IFCHR && sys.Rdev == zeroDevice
}

// checkExecutable refuses a file that cannot be the executable of a process any more: the kernel asks for the right to execute it
// (kernel/sys.c, prctl_set_mm_exe_file).
func checkExecutable(f *os.File, want *image.MappedFile) error {
	st, err := f.Stat()
	if err != nil {
		return fault.New(fault.RestoreStep, want.Path, "%w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err == nil && fs.Flags&unix.ST_NOEXEC != 0 {
		return fault.New(fault.FileChanged, want.Path, "it cannot be executed any more: its file system is mounted noexec").
			WithRemedy("mount it without noexec for the restore")
	}
	if st.Mode()&0o111 == 0 {
		return fault.New(fault.FileChanged, want.Path, "it cannot be executed any more: its mode is %#o", st.Mode().Perm()).
			WithRemedy("let it be executed again (chmod +x)")
	}
	return nil
}

// buildID returns the GNU build-id of an ELF file in hex, "" if it has none.
func buildID(r io.ReaderAt) string {
	f, err := elf.NewFile(r)
	if err != nil {
		return ""
	}
	s := f.Section(".note.gnu.build-id")
	if s == nil {
		return ""
	}
	b, err := s.Data()
	const header = 16 // three words and the name "GNU\0"
	if err != nil || len(b) < header {
		return ""
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if uint64(len(b)-header) < uint64(n) {
		return ""
	}
	return hex.EncodeToString(b[header : header+n])
}

// commitFiles does the last things to files, which cannot be taken back.
func (r *restorer) commitFiles() error {
	if err := r.step("commit descriptors"); err != nil {
		return err
	}
	notes, err := r.table.Commit()
	r.notes = append(r.notes, notes...)
	return err
}
