package restore

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// mappedFiles is every file that processes map or execute, open in this process.
type mappedFiles struct {
	socket *os.File // descriptors for the processes go in here
	opened map[fileKey]*os.File
	exe    map[int]*os.File // by pid
}

// fileKey says which file a mapping needs and how it must be open.
type fileKey struct {
	path  string
	ghost int
	shmem int
	write bool
}

func keyOf(v *image.VMA) (fileKey, bool) {
	write := v.Shared && has(v, "mw")
	switch {
	case v.Kind == image.VMAShmem:
		return fileKey{shmem: v.Shmem, write: write}, true
	case v.Kind != image.VMAFile:
		return fileKey{}, false
	case v.File.Ghost > 0:
		return fileKey{ghost: v.File.Ghost, write: write}, true
	}
	return fileKey{path: v.File.Path, write: write}, true
}

// openFiles opens what the tree has mapped and open, after making what has no name. Nothing of it changes a file.
func (r *restorer) openFiles() error {
	r.mapped = &mappedFiles{opened: map[fileKey]*os.File{}, exe: map[int]*os.File{}}
	if err := r.makeObjects(); err != nil {
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
			v := &rec.VMAs[j]
			key, ok := keyOf(v)
			if !ok || r.mapped.opened[key] != nil {
				continue
			}
			f, err := r.openMapped(key, &v.File)
			if err != nil {
				return err
			}
			r.mapped.opened[key] = f
		}
		f, err := r.openMapped(fileKey{path: rec.Exe.Path, ghost: rec.Exe.Ghost}, &rec.Exe)
		if err != nil {
			return err
		}
		r.mapped.exe[rec.Pid] = f
	}
	if err := r.step("open descriptors"); err != nil {
		return err
	}
	var err error
	r.table, err = fdtable.Rebuild(r.ctx, r.img, fdtable.RebuildOptions{
		Std: r.o.Std, Detach: r.o.Detach,
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

// openMapped opens one file. What has no name is opened anew through /proc/self/fd, so that each mapping has it open as it needs.
func (r *restorer) openMapped(key fileKey, want *image.MappedFile) (*os.File, error) {
	if err := r.step("open " + want.Path); err != nil {
		return nil, err
	}
	mode, path := os.O_RDONLY, key.path
	if key.write {
		mode = os.O_RDWR
	}
	switch {
	case key.shmem > 0:
		path = fmt.Sprintf("/proc/self/fd/%d", r.shmems[key.shmem-1].Fd())
	case key.ghost > 0:
		path = fmt.Sprintf("/proc/self/fd/%d", r.ghosts[key.ghost-1].Fd())
	}
	f, err := os.OpenFile(path, mode, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.New(fault.FileGone, path, "%w", err)
	}
	if err != nil {
		return nil, fault.New(fault.RestoreStep, path, "%w", err)
	}
	r.onEnd(func() { f.Close() })
	if key.path == "" {
		return f, nil
	}
	err = checkSame(f, want)
	if err != nil && key.write && notShorter(f, want) {
		// The tree could write to it all the time, and the time of the last change need not even tell: it is as with a file open for writing.
		r.notes = append(r.notes, fmt.Sprintf("%s, which is mapped shared and writable, was changed after the snapshot: it stays as it is now", want.Path))
		err = nil
	}
	return f, err
}

// notShorter reports whether a regular file has at least the size it had at the snapshot.
func notShorter(f *os.File, want *image.MappedFile) bool {
	st, err := f.Stat()
	return err == nil && st.Mode().IsRegular() && st.Size() >= want.Size
}

// checkSame refuses a file that is not the one that was mapped at the snapshot: pages that the process had not changed come from it.
func checkSame(f *os.File, want *image.MappedFile) error {
	st, err := f.Stat()
	if err != nil {
		return fault.New(fault.RestoreStep, want.Path, "%w", err)
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

// socketPair makes the socket that descriptors are handed over through.
func (r *restorer) socketPair() (ours, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the hand-over socket: %w", err)
	}
	ours, theirs = os.NewFile(uintptr(pair[0]), "hand-over"), os.NewFile(uintptr(pair[1]), "hand-over, far end")
	r.onEnd(func() { ours.Close() })
	return ours, theirs, nil
}

// received says under which descriptor a process has each file it maps.
type received struct{ fds map[fileKey]int }

func (r *received) of(v *image.VMA) (int, error) {
	key, _ := keyOf(v)
	n, ok := r.fds[key]
	if !ok {
		return 0, fmt.Errorf("mapping %#x-%#x: its file was not handed over", v.Start, v.End)
	}
	return n, nil
}

// receiveMapped clears the process's descriptors except the socket, which moves out of the way, and hands over the mapped files: they
// become 0, 1, 2, ...
func (r *restorer) receiveMapped(p *process) (*received, error) {
	b := r.newBatch(p, p.lead)
	socket := socketNumber(p.rec)
	raiseLimit(b, p.rec, socket)
	b.call("move the socket", unix.SYS_DUP3, stubSocket, socket, 0)
	closeOthers(b, socket)
	if err := b.done(); err != nil {
		return nil, err
	}
	list := &received{fds: map[fileKey]int{}}
	var files []int
	for i := range p.rec.VMAs {
		key, ok := keyOf(&p.rec.VMAs[i])
		if _, dup := list.fds[key]; !ok || dup {
			continue
		}
		list.fds[key] = len(files)
		files = append(files, int(r.mapped.opened[key].Fd()))
	}
	return list, r.handOverAll(p, files)
}

// closeOthers closes every descriptor but the socket, those too that whoever started us left open.
func closeOthers(b *batch, socket int) {
	b.call("close descriptors", unix.SYS_CLOSE_RANGE, 0, socket-1, 0)
	b.call("close descriptors", unix.SYS_CLOSE_RANGE, socket+1, math.MaxUint32, 0)
}

// socketNumber is a descriptor number that the process to be does not use.
func socketNumber(rec *image.Process) int {
	n := 64
	if len(rec.FDs) > 0 {
		n = max(n, rec.FDs[len(rec.FDs)-1].Num+1)
	}
	return n
}

// raiseLimit makes room for descriptors and mapped files; the limit of the image comes last of all.
func raiseLimit(b *batch, rec *image.Process, socket int) {
	const minimum = 4096
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		b.err = fmt.Errorf("read the limit of descriptors: %w", err)
		return
	}
	want := max(uint64(socket)+1, min(minimum, lim.Max), rec.Limits[unix.RLIMIT_NOFILE].Cur)
	hard := max(want, lim.Max)
	b.call("raise the limit of descriptors", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, inBytes(limitBytes(image.Limit{Cur: want, Max: hard})), 0)
}

func limitBytes(l image.Limit) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, l.Cur), l.Max)
}

// scmMaxFD is SCM_MAX_FD (include/net/scm.h), the most descriptors in one message.
const scmMaxFD = 253

// handOverAll sends descriptors of ours to a process, which gets them in order under its lowest free numbers.
func (r *restorer) handOverAll(p *process, fds []int) error {
	b := r.newBatch(p, p.lead)
	total := len(fds)
	socket := socketNumber(p.rec)
	for len(fds) > 0 {
		n := min(len(fds), scmMaxFD)
		if err := unix.Sendmsg(int(r.mapped.socket.Fd()), []byte{0}, unix.UnixRights(fds[:n]...), nil, 0); err != nil {
			return fmt.Errorf("hand descriptors over to %s: %w", p.object(), err)
		}
		fds = fds[n:]
		recvDescriptors(b, socket)
		b.flush()
	}
	if total > 0 {
		b.call("check the descriptors handed over", unix.SYS_FCNTL, total-1, unix.F_GETFD, 0)
	}
	return b.done()
}

// recvDescriptors appends a recvmsg(2) with room for a full message of descriptors.
func recvDescriptors(b *batch, socket int) {
	control := unix.CmsgSpace(4 * scmMaxFD)
	if len(b.data)+control+256 > dataRoom {
		b.flush()
	}
	payload := b.argument(out(16))
	iov := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, payload), 1)
	iovAt := b.argument(inBytes(iov))
	controlAt := b.argument(out(control))
	var hdr []byte // struct msghdr: name, namelen, iov, iovlen, control, controllen, flags
	for _, v := range []uint64{0, 0, iovAt, 1, controlAt, uint64(control), 0} {
		hdr = binary.LittleEndian.AppendUint64(hdr, v)
	}
	b.callWant(exactly(1), "receive descriptors", unix.SYS_RECVMSG, socket, inBytes(hdr), 0)
}

// handOverOne hands over one descriptor and returns its number in the process.
func (r *restorer) handOverOne(p *process, f *os.File) (int, error) {
	return 0, r.handOverAll(p, []int{int(f.Fd())})
}

// handOver puts the descriptors of the image in place. They arrive as 0, 1, 2, ... in ascending order of their real numbers, so
// each one's number is at most its real one, and moving them from the last to the first never meets one that has not been moved.
func (r *restorer) handOver(p *process) error {
	fds := make([]int, len(p.rec.FDs))
	for i, fd := range p.rec.FDs {
		if fds[i] = r.table.FDFor(fd.File, fd.Num); fds[i] < 0 {
			return fault.New(fault.RestoreState, fmt.Sprintf("fd %d of pid %d", fd.Num, p.rec.Pid), "the image has no description %d", fd.File)
		}
	}
	if err := r.handOverAll(p, fds); err != nil {
		return err
	}
	b := r.newBatch(p, p.lead)
	for i := len(p.rec.FDs) - 1; i >= 0; i-- {
		fd := p.rec.FDs[i]
		flags := 0
		if fd.Cloexec {
			flags = unix.O_CLOEXEC
		}
		if fd.Num == i {
			flags = 0
			if fd.Cloexec {
				flags = unix.FD_CLOEXEC
			}
			b.call(fmt.Sprintf("flags of fd %d", i), unix.SYS_FCNTL, i, unix.F_SETFD, flags)
			continue
		}
		b.call(fmt.Sprintf("place fd %d", fd.Num), unix.SYS_DUP3, i, fd.Num, flags)
		b.call("close the copy", unix.SYS_CLOSE, i)
	}
	b.call("close the socket", unix.SYS_CLOSE, socketNumber(p.rec))
	return b.done()
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
