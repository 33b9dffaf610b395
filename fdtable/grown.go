package fdtable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/policy"
)

// TailDir is the directory beside the store's images that keeps what was cut off files.
const TailDir = "tails"

// growth is a file the tree appends to that has grown since the snapshot.
type growth struct {
	path  string // of the file
	key   fileKey
	keep  int64    // bytes to keep
	size  int64    // bytes it has now
	saved *os.File // the tail
}

// growth decides what becomes of a file that the tree writes to and that has grown since the snapshot, and returns the
// position for f. Commit cuts a file back that the tree appends to, unless the policy is another, or somebody outside
// has it open for writing now or had it at the snapshot: then the lines may be theirs. To what only writes, and stood at
// the end, the end has moved then.
func (b *builder) growth(f *model.File, now Known, w *writtenFile) (pos int64, err error) {
	if !writable(f) || now.Size <= f.Size {
		return f.Pos, nil
	}
	appends := f.Flags&unix.O_APPEND != 0
	if !appends && (f.Flags&unix.O_ACCMODE != unix.O_WRONLY || f.Pos != f.Size) {
		return f.Pos, nil
	}
	if appends {
		if err := b.mayBeCut(f, now); err != nil {
			return 0, err
		}
	}
	if err := w.ask(b, now); err != nil {
		return 0, err
	}
	switch {
	case w.left == "" && appends:
		b.cut(f, now)
		w.cut = true
		return f.Pos, nil
	case w.left == "":
		return f.Pos, nil
	}
	if !w.kept {
		w.kept = true
		b.note("%s has grown by %d bytes since the snapshot and is left so: %s. What the program itself wrote there "+
			"after the snapshot comes twice; at the snapshot the file ended at byte %d", now.Path, now.Size-f.Size,
			w.left, f.Size)
	}
	if appends {
		return f.Pos, nil
	}
	return now.Size, nil
}

// tailLength is how much of a file before its end is compared, to tell one that has grown from one that was emptied and
// written anew.
const tailLength = 4096

// hashTail returns a hash of the bytes before an end of the file, 0 if they could not be read.
func hashTail(v *view.View, path string, k Known, end int64) uint64 {
	fd, err := v.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return 0
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	tail := make([]byte, min(end, tailLength))
	if !k.isOpenAt(int(f.Fd())) {
		return 0
	}
	if _, err := f.ReadAt(tail, end-int64(len(tail))); err != nil {
		return 0
	}
	return xxhash.Sum64(tail)
}

// mayBeCut refuses a file that has grown if the policy does, or if it cannot be cut back and the policy wants it.
func (b *builder) mayBeCut(f *model.File, now Known) error {
	switch b.o.Policy.Of(policy.Appended) {
	case policy.Note:
		return nil
	case policy.Verify:
		const why = "the program appends to it, and it has grown by %d bytes since the snapshot"
		return fault.New(fault.FileChanged, now.Path, why, now.Size-f.Size).
			WithRemedy("cut it back to %d bytes, or restore without --policy appended=verify", f.Size)
	}
	return sameStart(b.o.View, f, now)
}

// sameStart refuses a file that is longer than it was, but not by having grown: cutting it back would leave what was
// never in it.
func sameStart(v *view.View, f *model.File, now Known) error {
	if f.Tail == 0 || hashTail(v, now.Path, now, f.Size) == f.Tail {
		return nil
	}
	const why = "it was emptied or written anew since the snapshot: what stood before byte %d, where it ended, is gone"
	return fault.New(fault.FileChanged, now.Path, why, f.Size).
		WithRemedy("put the file back as it was at the snapshot")
}

// cut remembers a file to be cut back, once however often it is open.
func (b *builder) cut(f *model.File, now Known) {
	key := fileKey{now.Dev, now.Ino}
	for i := range b.table.grown {
		if g := &b.table.grown[i]; g.key == key {
			g.keep = max(g.keep, f.Size)
			return
		}
	}
	b.table.grown = append(b.table.grown, growth{path: now.Path, key: key, keep: f.Size, size: now.Size})
}

// Commit does the irreversible last steps: it cuts files that grew by appending back to what they were, after saving
// what it cuts off beside the image, sets the terminal's modes and starts timers. It is to be called when all else has
// succeeded and before the processes run. The notes, one line each, are for the user: of this, and of what Rebuild
// found. On error the files are as they were.
func (t *Table) Commit() (notes []string, err error) {
	notes = t.notes
	defer func() {
		for i := range t.grown {
			if saved := t.grown[i].saved; saved != nil {
				_ = saved.Close()
			}
		}
	}()
	for i := range t.grown {
		g := &t.grown[i]
		if g.saved, err = t.saveTail(g); err != nil {
			return nil, fault.New(fault.FDTailSave, g.path, "save the %d bytes appended since the snapshot: %w",
				g.size-g.keep, err)
		}
	}
	for i := range t.grown {
		g := &t.grown[i]
		if err := cutBack(g); err != nil {
			return nil, errors.Join(fault.New(fault.FDTailSave, g.path, "cut it back: %w", err), putBack(t.grown[:i]))
		}
		notes = append(notes, fmt.Sprintf("%s was cut back to its %d bytes of the snapshot; the %d bytes appended since are in %s",
			g.path, g.keep, g.size-g.keep, g.saved.Name()))
	}
	if err := t.finish(); err != nil {
		return nil, errors.Join(err, putBack(t.grown))
	}
	return notes, nil
}

// finish does what comes after the cutting. On error what it wrote is taken back.
func (t *Table) finish() (err error) {
	done := 0
	defer func() {
		for i := range t.refills[:done] {
			if err != nil {
				err = errors.Join(err, t.refills[i].undo())
			}
		}
	}()
	for i := range t.refills {
		done = i + 1
		if err := t.refills[i].do(); err != nil {
			return fault.New(fault.FDRebuild, t.refills[i].std.Name(), "write again what it had, which is in %s: %w",
				t.refills[i].kept, err)
		}
	}
	for _, u := range t.terms {
		t.late = append(t.late, func() error { return setTerminal(u) })
	}
	for _, last := range t.late {
		if err := last(); err != nil {
			return err
		}
	}
	return nil
}

// saveTail copies what is to be cut off to a new file beside the image.
func (t *Table) saveTail(g *growth) (*os.File, error) {
	src, err := openGrown(g, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = src.Close() }()
	return KeepAside(t.dir, t.id, g.path, func(dst *os.File) error {
		_, err := io.Copy(dst, io.NewSectionReader(src, g.keep, g.size-g.keep))
		return err
	})
}

// KeepAside makes a new file in a store, durably, for what a restore takes away from the file of: id is the image's. The
// caller closes it.
func KeepAside(store, id, of string, fill func(dst *os.File) error) (*os.File, error) {
	top, err := beneath.Open(store, beneath.OfOurs)
	if err != nil {
		return nil, err
	}
	defer func() { _ = top.Close() }()
	dir, _, err := top.SubOrMake(TailDir, beneath.OfOurs)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	name := filepath.Base(of)
	f, err := dir.CreateTemp(id + "-" + name[:min(len(name), 200)] + "-") // a name has at most 255 bytes
	if err != nil {
		return nil, err
	}
	if err = fill(f); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), dir.Remove(filepath.Base(f.Name())))
	}
	return f, nil
}

// openGrown opens the file and checks that it is still the one that was looked at.
func openGrown(g *growth, flag int) (*os.File, error) {
	f, err := os.OpenFile(g.path, flag|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && (fileKey{st.Dev, st.Ino}) != g.key {
		err = errors.New("it was replaced meanwhile")
	}
	if err == nil && st.Size != g.size {
		err = fmt.Errorf("another program is writing to it: it had %d bytes a moment ago and has %d now", g.size,
			st.Size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func cutBack(g *growth) error {
	f, err := openGrown(g, os.O_WRONLY)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(g.keep), f.Close())
}

// putBack appends saved tails again, for a Commit that failed half way.
func putBack(grown []growth) error {
	var errs []error
	for i := range grown {
		g := &grown[i]
		if err := putBackOne(g); err != nil {
			errs = append(errs, fmt.Errorf("put back the end of %s, which is in %s: %w", g.path, g.saved.Name(), err))
		}
	}
	return errors.Join(errs...)
}

func putBackOne(g *growth) error {
	dst, err := os.OpenFile(g.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.NewOffsetWriter(dst, g.keep), io.NewSectionReader(g.saved, 0, g.size-g.keep))
	return errors.Join(err, dst.Close())
}
