package image

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/model"
)

// headBytes is the content of the head file for an id.
func headBytes(id string) []byte { return fmt.Appendf(nil, "%s %016x\n", id, xxhash.Sum64String(id)) }

// nextHead is the name in tmp of a head file that is to replace the one there is.
func nextHead(id string) string { return headFile + "." + id }

// SetHead replaces the head file.
func (l *lockedDir) SetHead(id string) error {
	if id == "" {
		if err := l.top.Remove(headFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return l.top.Sync()
	}
	tmp, err := l.top.Sub(tmpDir)
	if err != nil {
		return err
	}
	defer func() { _ = tmp.Close() }()
	next := nextHead(id)
	_ = tmp.Remove(next) // of someone who was killed here
	if err = tmp.Write(next, headBytes(id)); err == nil {
		err = tmp.Rename(next, l.top, headFile)
	}
	if err != nil {
		_ = tmp.Remove(next)
		return err
	}
	return l.top.Sync()
}

// Retire renames the info file: with that the image is gone for everyone who looks for images.
func (l *lockedDir) Retire(id string) error {
	return l.in(id, func(d *beneath.Dir) error {
		err := d.Rename(string(PartInfo), d, string(PartRemoved))
		if errors.Is(err, fs.ErrNotExist) { // a damaged image
			if err = d.Write(string(PartRemoved), nil); errors.Is(err, fs.ErrExist) {
				err = nil
			}
		}
		if err != nil {
			return err
		}
		return d.Sync()
	})
}

// Drop removes the rest of a removed image. First it leaves the place where images are looked for, whole.
func (l *lockedDir) Drop(id string) error {
	images, err := l.top.Sub(imagesDir)
	if err != nil {
		return err
	}
	defer func() { _ = images.Close() }()
	tmp, err := l.top.Sub(tmpDir)
	if err != nil {
		return err
	}
	defer func() { _ = tmp.Close() }()
	if err := images.Rename(id, tmp, id); err != nil {
		return err
	}
	if err := images.Sync(); err != nil {
		return err
	}
	return tmp.RemoveAll(id)
}

func (l *lockedDir) Shrink(id string, used []Extent) error {
	return l.in(id, func(d *beneath.Dir) error {
		for _, p := range []Part{PartState, PartPages} {
			if err := d.Remove(string(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if used == nil {
			return nil
		}
		return punch(d, used)
	})
}

// punch gives the disk blocks of a data file back that hold none of the extents. Readers of a removed image may still
// have the file open; then it is left for another time. A file that has other names, too, is left as it is: somebody
// has made a copy of the store with them.
func punch(d *beneath.Dir, used []Extent) error {
	f, err := d.Open(string(PartData), os.O_RDWR)
	if err != nil {
		return nil // it is in nobody's way
	}
	defer func() { _ = f.Close() }()
	if ok, err := tryLock(f); !ok || err != nil || !beneath.OneName(f) {
		return nil
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	slices.SortFunc(used, func(a, b Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	at := uint64(dataStart)
	for _, u := range append(used, Extent{Offset: uint64(fi.Size())}) {
		from, to := alignUp(at), u.Offset&^(model.PageSize-1)
		if from < to {
			makeHole(f, int64(from), int64(to-from))
		}
		at = max(at, u.Offset+u.Length)
	}
	return nil
}

// Size is how many bytes of disk the files of an image take.
func (l *lockedDir) Size(id string) (n int64) {
	_ = l.in(id, func(d *beneath.Dir) error {
		names, err := d.Names()
		for _, name := range names {
			if e, err := d.Lstat(name); err == nil {
				n += e.Blocks
			}
		}
		return err
	})
	return n
}
