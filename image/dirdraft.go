package image

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// dirDraft is an image being written in tmp/ID.
type dirDraft struct {
	store *dirStore
	id    string
	tmp   *beneath.Dir
	dir   *beneath.Dir // nil until it is made
	lock  *os.File     // its flock tells that the writer lives
	made  []madeEntry  // of the store, with this draft
}

func (d *dirDraft) ID() string { return d.id }

func (d *dirDraft) Create(p Part) (DraftFile, error) { return d.dir.Create(string(p)) }

func (d *dirDraft) Open(p Part) (PartFile, error) {
	f, err := openDirFile(d.dir, p)
	if err != nil {
		return nil, readFault(d.dir.Path(string(p)), err)
	}
	return f, nil
}

func (d *dirDraft) Sync() error { return d.dir.Sync() }

// Begin makes the directory of a new image, and its lock file, which names the image that must stay.
func (l *lockedDir) Begin(pinned string) (Draft, error) {
	tmp, err := l.top.Sub(tmpDir)
	if err != nil {
		return nil, err
	}
	sweep(tmp)
	var id [idDigits / 2]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("choose an id: %w", err)
	}
	d := &dirDraft{store: l.dirStore, id: hex.EncodeToString(id[:]), tmp: tmp, made: l.made}
	if l.isThere(d.id) || tmp.Has(d.id+lockSuffix) {
		return nil, fault.New(fault.StoreBusy, l.path, "the id %s, just made up, is taken", d.id)
	}
	if d.lock, err = tmp.Create(d.id + lockSuffix); err != nil {
		_ = tmp.Close()
		return nil, err
	}
	if _, err = tryLock(d.lock); err == nil {
		_, err = d.lock.WriteString(pinned)
	}
	if err == nil {
		if err = tmp.Mkdir(d.id); err == nil {
			d.dir, err = tmp.Sub(d.id)
		}
	}
	if err != nil {
		d.remove()
		return nil, err
	}
	return d, nil
}

// isThere reports whether an id is taken.
func (l *lockedDir) isThere(id string) bool {
	images, err := l.top.Sub(imagesDir)
	if err != nil {
		return false
	}
	defer func() { _ = images.Close() }()
	return images.Has(id)
}

// sweep removes images whose writers died. What cannot be removed is left: it is in nobody's way.
func sweep(tmp *beneath.Dir) {
	names, _ := tmp.Names()
	for _, name := range names {
		id, isLock := strings.CutSuffix(name, lockSuffix)
		switch {
		case !isLock && !tmp.Has(id+lockSuffix):
			_ = tmp.RemoveAll(id)
		case isLock && isFree(tmp, name):
			_ = tmp.RemoveAll(id)
			_ = tmp.Remove(name)
		}
	}
}

// isFree reports whether the writer that a lock file is of has died.
func isFree(tmp *beneath.Dir, name string) bool {
	f, err := tmp.Open(name, os.O_RDWR)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	free, err := tryLock(f)
	return free && err == nil
}

// Publish renames the draft's directory; the head, if it is to be that, is written beside before, and renamed after.
func (l *lockedDir) Publish(draft Draft, asHead bool) error {
	d := draft.(*dirDraft) // of this store
	images, err := l.top.Sub(imagesDir)
	if err != nil {
		return err
	}
	defer func() { _ = images.Close() }()
	next := nextHead(d.id)
	if asHead {
		err = d.tmp.Write(next, headBytes(d.id))
	}
	if err == nil {
		if err = d.tmp.Rename(d.id, images, d.id); err == nil {
			if err = images.Sync(); err == nil && asHead {
				err = d.tmp.Rename(next, l.top, headFile)
			}
			if err != nil {
				_ = images.Rename(d.id, d.tmp, d.id) // the caller discards it there
			}
		}
	}
	if err != nil {
		if asHead {
			_ = d.tmp.Remove(next)
		}
		return err
	}
	if asHead {
		// if this fails and the machine does too, the head is the image before: no reason to lose this one
		_ = l.top.Sync()
	}
	_ = d.tmp.Remove(d.id + lockSuffix)
	d.close()
	return nil
}

// Discard removes the draft, and the store if it was made for it and nothing else came into it.
func (d *dirDraft) Discard() {
	l := &lockedDir{dirStore: d.store, made: d.made}
	if top, err := d.store.root(); err == nil {
		l.top = top
		if mark, err := lockMark(top); err == nil {
			l.mark = mark
			defer l.Unlock()
		}
	}
	d.remove()
	l.Unmake()
}

// remove removes what there is of the draft.
func (d *dirDraft) remove() {
	_ = d.tmp.RemoveAll(d.id)
	_ = d.tmp.Remove(d.id + lockSuffix)
	d.close()
}

// close lets what is open of the draft go.
func (d *dirDraft) close() {
	_ = d.lock.Close()
	_ = d.tmp.Close()
	if d.dir != nil {
		_ = d.dir.Close()
	}
}
