package fdtable

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
	"github.com/bpfckpt/bpfckpt/policy"
)

// openStd attaches a description that led outside to the restore command's own stream.
func (b *builder) openStd(f *model.File) (int, error) {
	n := b.stream(f)
	if n < 1 || n > len(b.o.Std) {
		return -1, fault.New(fault.FDRecord, fileObject(f), "it names standard stream %d", n-1)
	}
	std := b.o.Std[n-1]
	fd, err := b.attach(f, std)
	if err != nil {
		return -1, err
	}
	if g := b.o.Given[n-1]; g != nil && isOpen(std) {
		if err := b.adopt(f, std, g.Kept); err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
	}
	if f.Kind == kindTTY && isTerminal(fd) {
		b.noteTerminal(f, fd)
	}
	if f.Kind == kindTTY && f.Term > 0 && f.Term <= len(b.st.Terminals) && isTerminal(fd) {
		b.table.terms = append(b.table.terms, termUse{fd: fd, term: &b.st.Terminals[f.Term-1]})
	}
	return fd, b.splitStd(f, n, fd)
}

// attached returns our stream that f becomes, nil if it is opened by itself.
func (b *builder) attached(f *model.File) *os.File {
	if n := b.stream(f); n > 0 && n <= len(b.o.Std) {
		return b.o.Std[n-1]
	}
	return b.goesOn(f)
}

// stream returns 1 + N if f becomes our standard stream N, 0 if it is opened by itself.
func (b *builder) stream(f *model.File) int {
	switch {
	case f.Std != 0 && !b.byName(f):
		return f.Std
	case f.Std != 0:
		return 0
	}
	return b.given(f)
}

// byName tells whether a standard stream that is a file with others outside is opened by its name: there is no stream
// of ours for it.
func (b *builder) byName(f *model.File) bool {
	return f.Kind == kindRegular && f.Others && f.Std > 0 && f.Std <= len(b.o.Std) &&
		(b.o.Policy.Of(policy.Std) == policy.Null || !isOpen(b.o.Std[f.Std-1]))
}

func isOpen(f *os.File) bool {
	var st unix.Stat_t
	return f != nil && unix.Fstat(int(f.Fd()), &st) == nil
}

// attach returns a descriptor for one of our streams. Terminals and pipes are opened anew, so that status flags the
// process has set, or will set, are its own and not our shell's too; anything else keeps its description, which holds a
// position.
func (b *builder) attach(f *model.File, std *os.File) (int, error) {
	if b.o.Policy.Of(policy.Std) == policy.Null || std == nil {
		return b.openNull(f)
	}
	fd := int(std.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return b.openNull(f) // the stream is closed
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return -1, fault.New(fault.FDRebuild, std.Name(), "read its status flags: %w", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFIFO || isTerminal(fd) {
		mode := flags & unix.O_ACCMODE
		if isTerminal(fd) {
			mode = int(f.Flags & unix.O_ACCMODE)
		}
		own := int(f.Flags & (unix.O_NONBLOCK | unix.O_APPEND))
		if f.Rdev == anyTTY && f.Kind == kindTTY && isTerminal(fd) {
			if anew := b.openAnyTTY(fd, mode|own); anew >= 0 {
				return anew, nil
			}
		}
		if anew, err := unix.Open(selfLink(fd), mode|own|unix.O_CLOEXEC|unix.O_NOCTTY, 0); err == nil {
			return anew, nil
		}
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return -1, fault.New(fault.FDRebuild, std.Name(), "duplicate it: %w", err)
	}
	return dup, nil
}

// openAnyTTY opens a terminal of ours as /dev/tty, -1 if it is not our controlling one.
func (b *builder) openAnyTTY(std, flags int) int {
	fd, err := unix.Open("/dev/tty", flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return -1
	}
	if dev := deviceOf(fd); dev == 0 || dev != deviceOf(std) {
		_ = unix.Close(fd)
		return -1
	}
	return fd
}

// goesOn returns our own standard stream if f becomes that: see plan.GoesOn.
func (b *builder) goesOn(f *model.File) *os.File {
	if i := plan.GoesOn(b.st, f, b.streams, b.o.Policy); i >= 0 {
		return b.o.Std[i]
	}
	return nil
}

// splitStd gives each standard stream that shared the description of f with another one, which became stream 1 + n, its
// own: at a shell prompt all three are one description of the terminal, and whoever redirects one of restore's streams
// means that one.
func (b *builder) splitStd(f *model.File, n, first int) error {
	for i := range b.st.Processes {
		for _, fd := range b.st.Processes[i].FDs {
			key := stdKey{f.ID, fd.Num}
			if fd.File != f.ID || fd.Num > 2 || fd.Num < 0 || b.table.std[key] != 0 {
				continue
			}
			if fd.Num == n-1 || b.sameStream(fd.Num, n-1) {
				b.table.std[key] = first
				continue
			}
			own, err := b.attach(f, b.o.Std[fd.Num])
			if err != nil {
				return err
			}
			b.table.extra = append(b.table.extra, own)
			b.table.std[key] = own
		}
	}
	return nil
}

// sameStream tells whether two of our streams lead to the same terminal, pipe or file.
func (b *builder) sameStream(i, j int) bool {
	if b.o.Policy.Of(policy.Std) == policy.Null {
		return true
	}
	if b.o.Std[i] == nil || b.o.Std[j] == nil {
		return false
	}
	var a, c unix.Stat_t
	if unix.Fstat(int(b.o.Std[i].Fd()), &a) != nil || unix.Fstat(int(b.o.Std[j].Fd()), &c) != nil {
		return false
	}
	return a.Dev == c.Dev && a.Ino == c.Ino && a.Mode&unix.S_IFMT == unix.S_IFCHR
}

// stdKey names one descriptor number of one description.
type stdKey struct{ file, num int }

// openStdOnly is for kinds that can only be standard streams.
func openStdOnly(_ *builder, f *model.File) (int, error) {
	return -1, fault.New(fault.FDRecord, fileObject(f), "a %s that is no standard stream", f.Kind)
}
