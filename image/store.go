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

	"github.com/cespare/xxhash/v2"

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

// workspace is the place in a store where one image is written.
type workspace struct {
	store string   // the store's directory
	id    string   // of the image
	dir   string   // where its files are written
	lock  *os.File // its flock tells that the writer lives
	made  []string // what Create made of the store, outermost first
}

// newWorkspace makes dir a store if it is none, removes what dead writers left there, and begins a new image.
func newWorkspace(dir string, o *WriteOptions) (*workspace, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, writeFault(dir, err)
	}
	w := &workspace{store: abs}
	mark, err := w.makeStore()
	for try := 0; errors.Is(err, fs.ErrNotExist) && try < 100; try++ {
		mark, err = w.makeStore() // another writer aborted, and removed the store it had made, under our feet
	}
	if err != nil {
		w.unmake(nil)
		return nil, writeFault(dir, err)
	}
	err = w.begin(o)
	if err != nil {
		w.discard(mark)
	}
	_ = mark.Close()
	if err != nil {
		return nil, writeFault(dir, err)
	}
	return w, nil
}

// makeStore makes the store's directories and takes its lock.
func (w *workspace) makeStore() (*os.File, error) {
	if err := w.mkdirAll(w.store); err != nil {
		return nil, err
	}
	path := filepath.Join(w.store, markFile)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := mustBeEmpty(w.store); err != nil {
			return nil, err
		}
	}
	mark, err := lockStore(w.store)
	if err != nil {
		return nil, err
	}
	err = w.fillStore(mark)
	if err != nil {
		w.unmake(mark)
		_ = mark.Close()
	}
	return mark, err
}

// fillStore writes the mark of a new store and makes its directories; the store is locked.
func (w *workspace) fillStore(mark *os.File) error {
	fi, err := mark.Stat()
	if err != nil {
		return err
	}
	if fi.Size() == 0 {
		w.made = append(w.made, mark.Name())
		if _, err := mark.WriteAt([]byte(storeMark), 0); err != nil {
			return err
		}
		if err := mark.Sync(); err != nil {
			return err
		}
	}
	if err := checkMark(w.store); err != nil {
		return err
	}
	for _, name := range []string{imagesDir, tmpDir} {
		if err := w.mkdirAll(filepath.Join(w.store, name)); err != nil {
			return err
		}
	}
	return syncDir(w.store)
}

// begin checks the options against the store and makes the directory of the new image; the store is locked.
func (w *workspace) begin(o *WriteOptions) error {
	w.sweep()
	if err := checkName(w.store, o.Name, ""); err != nil {
		return err
	}
	if o.Parent != "" && isID(o.Parent) && !isImage(w.store, o.Parent) {
		o.Parent = successor(w.store, o.Parent) // it may have been squashed
	}
	if o.Parent != "" && (!isID(o.Parent) || !isImage(w.store, o.Parent)) {
		return fault.New(fault.StoreNoImage, w.store, "the parent %q is not in it", o.Parent)
	}
	return w.makeDir(o.Parent)
}

// makeDir makes the directory of a new image, and its lock file, which names the image that must stay until it is
// published; the store is locked.
func (w *workspace) makeDir(pinned string) error {
	var id [idDigits / 2]byte
	if _, err := rand.Read(id[:]); err != nil {
		return fmt.Errorf("choose an id: %w", err)
	}
	w.id = hex.EncodeToString(id[:])
	w.dir = filepath.Join(w.store, tmpDir, w.id)
	for _, taken := range []string{filepath.Join(w.store, imagesDir, w.id), w.dir + ".lock"} {
		if _, err := os.Lstat(taken); err == nil {
			return fault.New(fault.StoreBusy, w.store, "the id %s, just made up, is taken", w.id)
		}
	}
	lock, err := os.OpenFile(w.dir+".lock", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w.lock = lock
	if _, err := tryLock(lock); err != nil {
		return err
	}
	if _, err := lock.WriteString(pinned); err != nil {
		return err
	}
	return os.Mkdir(w.dir, 0o700)
}

// sweep removes images whose writers died. What cannot be removed is left: it is in nobody's way.
func (w *workspace) sweep() {
	tmp := filepath.Join(w.store, tmpDir)
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

// publish makes the finished image, and the head that points to it, visible. The name is checked again: another image
// may have taken it meanwhile.
//
// An image that replaces another one becomes the head only if that one is; from the rename on the other one does not
// count.
func (w *workspace) publish(name string, replaced *Info) error {
	mark, err := lockStore(w.store)
	if err != nil {
		return err
	}
	defer func() { _ = mark.Close() }()
	but := ""
	if replaced != nil {
		but = replaced.ID
	}
	if err := checkName(w.store, name, but); err != nil {
		return err
	}
	if head, err := Head(w.store); replaced != nil && (err != nil || head != replaced.ID) {
		return w.publishBeside()
	}
	head := filepath.Join(w.store, headFile)
	next := filepath.Join(w.store, tmpDir, headFile+"."+w.id)
	if err := writeFile(next, headBytes(w.id)); err != nil {
		_ = os.Remove(next)
		return err
	}
	images := filepath.Join(w.store, imagesDir)
	final := filepath.Join(images, w.id)
	if err := os.Rename(w.dir, final); err != nil {
		_ = os.Remove(next)
		return err
	}
	err = syncDir(images)
	if err == nil {
		err = os.Rename(next, head)
	}
	if err != nil {
		_ = os.Rename(final, w.dir) // the caller discards it there
		_ = os.Remove(next)
		return err
	}
	// if this fails and the machine does too, the head is the image before: no reason to lose this one
	_ = syncDir(w.store)
	w.unlock()
	return nil
}

// publishBeside makes the finished image visible without moving the head; the store is locked.
func (w *workspace) publishBeside() error {
	images := filepath.Join(w.store, imagesDir)
	final := filepath.Join(images, w.id)
	if err := os.Rename(w.dir, final); err != nil {
		return err
	}
	if err := syncDir(images); err != nil {
		_ = os.Rename(final, w.dir)
		return err
	}
	w.unlock()
	return nil
}

// unlock removes the lock file of an image that is published.
func (w *workspace) unlock() {
	_ = os.Remove(w.lock.Name())
	_ = w.lock.Close()
}

// discard removes the image that was being written, and the store if this writer made it and nothing else came into it.
// mark is the store's lock if the caller holds it.
func (w *workspace) discard(mark *os.File) {
	if mark == nil {
		if m, err := lockStore(w.store); err == nil {
			mark = m
			defer func() { _ = m.Close() }()
		}
	}
	if w.lock != nil {
		_ = os.RemoveAll(w.dir)
		_ = os.Remove(w.lock.Name())
		_ = w.lock.Close()
	}
	w.unmake(mark)
}

// unmake removes what Create made of the store, as far as it is empty: another writer may be using it by now. Without
// the store's lock only directories are removed.
func (w *workspace) unmake(mark *os.File) {
	for i := len(w.made) - 1; i >= 0; i-- {
		if filepath.Base(w.made[i]) == markFile && mark == nil {
			continue
		}
		if err := os.Remove(w.made[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
}

// mkdirAll makes a directory and those above it, and notes the ones it made.
func (w *workspace) mkdirAll(path string) error {
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(path) != path {
		if err := w.mkdirAll(filepath.Dir(path)); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o700)
	}
	if err == nil {
		w.made = append(w.made, path)
		return nil
	}
	if fi, serr := os.Stat(path); serr == nil {
		if fi.IsDir() {
			return nil
		}
		return syscall.ENOTDIR
	}
	return err
}

// mustBeEmpty refuses to make a store among other things. The lost+found of a fresh file system does not count.
func mustBeEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == markFile { // another writer makes it a store at this moment
			return nil
		}
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return fault.New(fault.StoreNotStore, dir, "it holds %q and was not made by bpfckpt", e.Name())
		}
	}
	return nil
}

// lockStore takes the store's lock; closing the file releases it.
func lockStore(dir string) (*os.File, error) {
	path := filepath.Join(dir, markFile)
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		ok, err := tryLock(f)
		if ok && isSame(f, path) {
			return f, nil
		}
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("lock the store: %w", err)
		}
		if time.Now().After(deadline) {
			return nil, fault.New(fault.StoreBusy, dir, "its lock was not free for %v", lockPatience)
		}
	}
}

// isSame reports whether path still leads to f: an Abort may have removed the store while we waited for its lock.
func isSame(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// writeFile makes a durable file.
func writeFile(path string, chunks ...[]byte) error {
	f, err := createFile(path, chunks...)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// createFile makes a file that is not durable yet.
func createFile(path string, chunks ...[]byte) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	for _, c := range chunks {
		if _, err := f.Write(c); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// headBytes is the content of the head file for an id.
func headBytes(id string) []byte { return fmt.Appendf(nil, "%s %016x\n", id, xxhash.Sum64String(id)) }
