package image

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Names in a store's directory.
const (
	markFile  = "store"
	headFile  = "head"
	imagesDir = "images"
	tmpDir    = "tmp"
)

// lockPatience is how long to wait for the store's lock, which is held for a few file operations only.
const lockPatience = 5 * time.Second

// dirStore is a directory as a store.
type dirStore struct{ path string }

// Dir returns the store that a directory is, or is to become.
func Dir(path string) Store { return dirStore{path} }

func (s dirStore) Name() string { return s.path }

// image is the directory of a published image.
func (s dirStore) image(id string) string { return filepath.Join(s.path, imagesDir, id) }

// Check checks the mark of the store.
func (s dirStore) Check() error {
	path := filepath.Join(s.path, markFile)
	b, err := readSmall(path, int64(len(storeMark))+1)
	if errors.Is(err, syscall.ENOTDIR) {
		return writeFault(s.path, err)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return readFault(path, err)
	}
	if string(b) == storeMark {
		return nil
	}
	ids, _ := s.IDs()
	switch {
	case len(b) == 0 && len(ids) == 0:
		return fault.New(fault.StoreNotFound, s.path, "there is no image in this directory")
	case err != nil:
		return readFault(path, err)
	case len(b) < len(storeMark):
		return fault.New(fault.ImageTruncated, path, "the store's mark has %d bytes", len(b))
	}
	return fault.New(fault.ImageVersion, path, "the store's mark is %q; this release reads %q", b, storeMark)
}

func (s dirStore) IDs() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.path, imagesDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, readFault(s.path, err)
	}
	var ids []string
	for _, e := range entries {
		if isID(e.Name()) && (e.IsDir() || e.Type() == fs.ModeSymlink) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

func (s dirStore) Has(id string, p Part) bool {
	_, err := os.Lstat(filepath.Join(s.image(id), string(p)))
	return err == nil
}

// Open opens a part; one of data keeps others from making holes in it.
func (s dirStore) Open(id string, p Part) (PartFile, error) {
	f, err := openDirFile(filepath.Join(s.image(id), string(p)))
	if err != nil {
		return nil, err
	}
	if p == PartData {
		share(f.File)
	}
	return f, nil
}

// dirFile is an open part.
type dirFile struct {
	*os.File
	size int64
}

func (f dirFile) Size() int64 { return f.size }

func openDirFile(path string) (dirFile, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return dirFile{}, readFault(path, err)
	}
	if !fi.Mode().IsRegular() { // opening a FIFO would hang
		return dirFile{}, fault.New(fault.ImageMissing, path, "it is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return dirFile{}, readFault(path, err)
	}
	if fi, err = f.Stat(); err != nil {
		_ = f.Close()
		return dirFile{}, readFault(path, err)
	}
	return dirFile{f, fi.Size()}, nil
}

// Head reads the head file.
func (s dirStore) Head() (string, error) {
	path := filepath.Join(s.path, headFile)
	b, err := readSmall(path, int64(len(headBytes(strings.Repeat("0", idDigits))))+1)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", readFault(path, err)
	}
	id := string(b[:min(idDigits, len(b))])
	if len(b) < len(headBytes(id)) {
		return "", fault.New(fault.ImageTruncated, path, "the head has %d bytes", len(b)).
			WithRemedy("name the image: DIR@ID")
	}
	if !isID(id) || string(b) != string(headBytes(id)) {
		return "", fault.New(fault.ImageDamaged, path, "the head's checksum does not match").
			WithRemedy("name the image: DIR@ID")
	}
	return id, nil
}

// lockedDir is a directory whose lock is held.
type lockedDir struct {
	dirStore
	mark *os.File // its flock is the lock
	made []string // what Lock made of the store, outermost first
}

// Lock takes the flock on the store's mark.
func (s dirStore) Lock(create bool) (Locked, error) {
	l := &lockedDir{dirStore: s}
	var err error
	if !create {
		if l.mark, err = lockDir(s.path); err != nil {
			return nil, err
		}
		return l, nil
	}
	err = l.makeStore()
	for try := 0; errors.Is(err, fs.ErrNotExist) && try < 100; try++ {
		err = l.makeStore() // another writer aborted, and removed the store it had made, under our feet
	}
	if err != nil {
		l.Unmake()
		return nil, err
	}
	return l, nil
}

func (l *lockedDir) Unlock() { _ = l.mark.Close() }

// makeStore makes the store's directories and takes its lock.
func (l *lockedDir) makeStore() error {
	if err := l.mkdirAll(l.path); err != nil {
		return err
	}
	path := filepath.Join(l.path, markFile)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := mustBeEmpty(l.path); err != nil {
			return err
		}
	}
	mark, err := lockDir(l.path)
	if err != nil {
		return err
	}
	l.mark = mark
	if err := l.fillStore(); err != nil {
		l.Unmake()
		_ = mark.Close()
		l.mark = nil
		return err
	}
	return nil
}

// fillStore writes the mark of a new store and makes its directories.
func (l *lockedDir) fillStore() error {
	fi, err := l.mark.Stat()
	if err != nil {
		return err
	}
	if fi.Size() == 0 {
		l.made = append(l.made, l.mark.Name())
		if _, err := l.mark.WriteAt([]byte(storeMark), 0); err != nil {
			return err
		}
		if err := l.mark.Sync(); err != nil {
			return err
		}
	}
	if err := l.Check(); err != nil {
		return err
	}
	for _, name := range []string{imagesDir, tmpDir} {
		if err := l.mkdirAll(filepath.Join(l.path, name)); err != nil {
			return err
		}
	}
	return syncDir(l.path)
}

// Unmake removes what Lock made of the store, as far as it is empty: another writer may be using it by now. Without the
// store's lock only directories are removed.
func (l *lockedDir) Unmake() {
	for i := len(l.made) - 1; i >= 0; i-- {
		if filepath.Base(l.made[i]) == markFile && l.mark == nil {
			continue
		}
		if err := os.Remove(l.made[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
}

// dirDraft is an image being written in tmp/ID.
type dirDraft struct {
	store dirStore
	id    string
	dir   string
	lock  *os.File // its flock tells that the writer lives
	made  []string // of the store, with this draft
}

func (d *dirDraft) ID() string { return d.id }

func (d *dirDraft) Create(p Part) (DraftFile, error) {
	return os.OpenFile(filepath.Join(d.dir, string(p)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func (d *dirDraft) Open(p Part) (PartFile, error) {
	return openDirFile(filepath.Join(d.dir, string(p)))
}

func (d *dirDraft) Sync() error { return syncDir(d.dir) }

// Begin makes the directory of a new image, and its lock file, which names the image that must stay.
func (l *lockedDir) Begin(pinned string) (Draft, error) {
	l.sweep()
	var id [idDigits / 2]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("choose an id: %w", err)
	}
	d := &dirDraft{store: l.dirStore, id: hex.EncodeToString(id[:]), made: l.made}
	d.dir = filepath.Join(l.path, tmpDir, d.id)
	for _, taken := range []string{l.image(d.id), d.dir + ".lock"} {
		if _, err := os.Lstat(taken); err == nil {
			return nil, fault.New(fault.StoreBusy, l.path, "the id %s, just made up, is taken", d.id)
		}
	}
	lock, err := os.OpenFile(d.dir+".lock", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	d.lock = lock
	if _, err = tryLock(lock); err == nil {
		if _, err = lock.WriteString(pinned); err == nil {
			err = os.Mkdir(d.dir, 0o700)
		}
	}
	if err != nil {
		d.remove()
		return nil, err
	}
	return d, nil
}

// sweep removes images whose writers died. What cannot be removed is left: it is in nobody's way.
func (l *lockedDir) sweep() {
	tmp := filepath.Join(l.path, tmpDir)
	entries, _ := os.ReadDir(tmp)
	for _, e := range entries {
		id, isLock := strings.CutSuffix(e.Name(), ".lock")
		if !isLock {
			if _, err := os.Lstat(filepath.Join(tmp, id+".lock")); errors.Is(err, fs.ErrNotExist) {
				_ = os.RemoveAll(filepath.Join(tmp, id))
			}
			continue
		}
		f, err := os.OpenFile(filepath.Join(tmp, e.Name()), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if dead, err := tryLock(f); dead && err == nil {
			_ = os.RemoveAll(filepath.Join(tmp, id))
			_ = os.Remove(f.Name())
		}
		_ = f.Close()
	}
}

// Publish renames the draft's directory; the head, if it is to be that, is written beside before, and renamed after.
func (l *lockedDir) Publish(draft Draft, asHead bool) error {
	d := draft.(*dirDraft) // of this store
	next := ""
	if asHead {
		next = filepath.Join(l.path, tmpDir, headFile+"."+d.id)
		if err := writeFile(next, headBytes(d.id)); err != nil {
			_ = os.Remove(next)
			return err
		}
	}
	images := filepath.Join(l.path, imagesDir)
	err := os.Rename(d.dir, l.image(d.id))
	if err == nil {
		if err = syncDir(images); err == nil && asHead {
			err = os.Rename(next, filepath.Join(l.path, headFile))
		}
		if err != nil {
			_ = os.Rename(l.image(d.id), d.dir) // the caller discards it there
		}
	}
	if err != nil {
		if asHead {
			_ = os.Remove(next)
		}
		return err
	}
	if asHead {
		// if this fails and the machine does too, the head is the image before: no reason to lose this one
		_ = syncDir(l.path)
	}
	_ = os.Remove(d.lock.Name())
	_ = d.lock.Close()
	return nil
}

// Discard removes the draft, and the store if it was made for it and nothing else came into it.
func (d *dirDraft) Discard() {
	l := &lockedDir{dirStore: d.store, made: d.made}
	if mark, err := lockDir(d.store.path); err == nil {
		l.mark = mark
		defer l.Unlock()
	}
	d.remove()
	l.Unmake()
}

// remove removes what there is of the draft.
func (d *dirDraft) remove() {
	_ = os.RemoveAll(d.dir)
	_ = os.Remove(d.lock.Name())
	_ = d.lock.Close()
}

// Pinned reads the lock files of writers at work.
func (s dirStore) Pinned() []string {
	var out []string
	locks, _ := filepath.Glob(filepath.Join(globEscape(s.path), tmpDir, "*.lock"))
	for _, path := range locks {
		b, err := readSmall(path, idDigits)
		if err != nil || !isID(string(b)) {
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if dead, err := tryLock(f); !dead && err == nil {
			out = append(out, string(b))
		}
		_ = f.Close()
	}
	return out
}

// SetHead replaces the head file.
func (l *lockedDir) SetHead(id string) error {
	head := filepath.Join(l.path, headFile)
	if id == "" {
		if err := os.Remove(head); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return syncDir(l.path)
	}
	next := filepath.Join(l.path, tmpDir, headFile+"."+id)
	_ = os.Remove(next) // of someone who was killed here
	err := writeFile(next, headBytes(id))
	if err == nil {
		err = os.Rename(next, head)
	}
	if err != nil {
		_ = os.Remove(next)
		return err
	}
	return syncDir(l.path)
}

// Retire renames the info file: with that the image is gone for everyone who looks for images.
func (l *lockedDir) Retire(id string) error {
	dir := l.image(id)
	err := os.Rename(filepath.Join(dir, string(PartInfo)), filepath.Join(dir, string(PartRemoved)))
	if errors.Is(err, fs.ErrNotExist) { // a damaged image
		if err = writeFile(filepath.Join(dir, string(PartRemoved)), nil); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// Drop removes the rest of a removed image. First it leaves the place where images are looked for, whole.
func (l *lockedDir) Drop(id string) error {
	tmp := filepath.Join(l.path, tmpDir, id)
	if err := os.Rename(l.image(id), tmp); err != nil {
		return err
	}
	if err := syncDir(filepath.Join(l.path, imagesDir)); err != nil {
		return err
	}
	return os.RemoveAll(tmp)
}

func (l *lockedDir) Shrink(id string, used []Extent) error {
	for _, p := range []Part{PartState, PartPages} {
		if err := os.Remove(filepath.Join(l.image(id), string(p))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if used == nil {
		return nil
	}
	return punch(filepath.Join(l.image(id), string(PartData)), used)
}
