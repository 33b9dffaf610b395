package fdtable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/policy"
)

// Given is what a standard stream was that the program got from whoever started it. Ours of the same number comes in
// its place.
type Given struct {
	Dev, Ino uint64 // of the file, as stat(2) gives them
	Rdev     uint64 // of a character device, which these names may lead to no more
	// the name of a file that has what had been written to it, for when the file has been emptied since; "" for none
	Kept string
}

// is tells whether a description was the stream. What else can be one is re-attached by its kind.
func (g *Given) is(f *model.File) bool {
	switch f.Kind {
	case kindRegular:
		return g.Rdev == 0 && g.Dev == f.Dev && g.Ino == f.Ino && len(f.Locks) == 0
	case kindChar:
		return g.Rdev != 0 && g.Rdev == f.Rdev
	}
	return false
}

// given returns 1 + N if f was standard stream N that the program was given, 0 if it was none.
func (b *builder) given(f *model.File) int {
	if b.o.Policy.Of(policy.Std) != policy.Reattach {
		return 0
	}
	for n, g := range b.o.Given {
		if g != nil && isOpen(b.o.Std[n]) && g.is(f) && b.hasAs(f, n) {
			return n + 1
		}
	}
	return 0
}

// hasAs tells whether some process has f as descriptor num.
func (b *builder) hasAs(f *model.File, num int) bool {
	for i := range b.st.Processes {
		for _, fd := range b.st.Processes[i].FDs {
			if fd.File == f.ID && fd.Num == num {
				return true
			}
		}
	}
	return false
}

// adopt prepares our stream std to stand for the file f was, if it leads to the same file or to one that was made anew
// under its name.
func (b *builder) adopt(f *model.File, std *os.File, kept string) error {
	fd := int(std.Fd())
	now, mode, err := knownNow(b.o.View, selfLink(fd), 0)
	if err != nil || f.Kind != kindRegular || mode != unix.S_IFREG {
		return nil
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return fault.New(fault.FDRebuild, std.Name(), "read its status flags: %w", err)
	}
	if now.Path, err = os.Readlink(selfLink(fd)); err != nil {
		return fault.New(fault.FDRebuild, std.Name(), "find its name: %w", err)
	}
	same, appends := knownFile(f).sameAs(now), flags&unix.O_APPEND != 0
	switch {
	case same && !writable(f):
		b.table.late = append(b.table.late, func() error { return moveOn(std, f.Pos, true) })
		return checkContent(f, now, nil)
	case same && appends && now.Size > f.Size:
		like := *f
		like.Flags |= unix.O_APPEND
		_, err = b.growth(&like, now, &writtenFile{appends: true, others: f.Others})
		return err
	case same && !appends && now.Size >= f.Size:
		b.table.late = append(b.table.late, func() error { return moveOn(std, f.Pos, false) })
	case writable(f) && now.Size < f.Size && (same || now.Path == f.Path):
		return b.refill(f, std, now, kept)
	}
	return nil
}

// moveOn moves a stream of ours to where the program's stood; unless it may be further on, and is.
func moveOn(std *os.File, pos int64, exactly bool) error {
	at, err := std.Seek(0, io.SeekCurrent)
	if err == nil && (at < pos || exactly) {
		_, err = std.Seek(pos, io.SeekStart)
	}
	if err != nil {
		return fault.New(fault.FDRebuild, std.Name(), "set the position %d: %w", pos, err)
	}
	return nil
}

// A refilling writes back to an emptied file what it had at the snapshot.
type refilling struct {
	std      *os.File
	kept     string
	from, to int64
}

// refill lets Commit write what is missing of an emptied output file, if what is there now is the beginning of what
// was.
func (b *builder) refill(f *model.File, std *os.File, now Known, kept string) error {
	for _, r := range b.table.refills {
		if sameFiles(r.std, std) {
			return nil
		}
	}
	begins, err := beginsWith(kept, std, now.Size, f.Size)
	if err != nil {
		return fault.New(fault.FDRebuild, now.Path, "compare it with what it was: %w", err)
	}
	if !begins {
		b.note("%s was emptied since the snapshot: the %d bytes that it had are not in it%s", now.Path, f.Size,
			keptText(kept))
		return nil
	}
	b.table.refills = append(b.table.refills, refilling{std, kept, now.Size, f.Size})
	b.note("%s was emptied since the snapshot: what it had was written to it again", now.Path)
	return nil
}

func keptText(kept string) string {
	if kept == "" {
		return ""
	}
	return "; they are in " + kept
}

// openKept opens what was kept of a stream, in a directory of a store.
func openKept(path string) (*os.File, error) {
	dir := filepath.Dir(path)
	return beneath.OpenBelow(filepath.Dir(dir), filepath.Base(dir), filepath.Base(path))
}

// beginsWith tells whether a file has at least size bytes, of which the first are what std's file has now.
func beginsWith(kept string, std *os.File, now, size int64) (bool, error) {
	if kept == "" {
		return false, nil
	}
	want, err := openKept(kept)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = want.Close() }()
	if st, err := want.Stat(); err != nil || st.Size() < size {
		return false, err
	}
	have, err := os.Open(selfLink(int(std.Fd())))
	if err != nil {
		return false, err
	}
	defer func() { _ = have.Close() }()
	const piece = 1 << 16
	a, c := make([]byte, piece), make([]byte, piece)
	for off := int64(0); off < now; off += piece {
		n := min(piece, now-off)
		if _, err := want.ReadAt(a[:n], off); err != nil {
			return false, err
		}
		if _, err := have.ReadAt(c[:n], off); err != nil {
			return false, err
		}
		if !bytes.Equal(a[:n], c[:n]) {
			return false, nil
		}
	}
	return true, nil
}

func (r *refilling) do() error {
	src, err := openKept(r.kept)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	if _, err := r.std.Seek(r.from, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(r.std, io.NewSectionReader(src, r.from, r.to-r.from))
	if err == nil && n != r.to-r.from {
		err = fmt.Errorf("%d of %d bytes written", n, r.to-r.from)
	}
	return err
}

// undo empties the file again.
func (r *refilling) undo() error {
	_, err := r.std.Seek(r.from, io.SeekStart)
	return errors.Join(r.std.Truncate(r.from), err)
}

// sameFiles tells whether two streams of ours lead to the same file.
func sameFiles(a, b *os.File) bool {
	var x, y unix.Stat_t
	return unix.Fstat(int(a.Fd()), &x) == nil && unix.Fstat(int(b.Fd()), &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}
