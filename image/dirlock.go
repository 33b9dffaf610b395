package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// lockPatience is how long to wait for the store's lock, which is held for a few file operations only.
const lockPatience = 5 * time.Second

// lockSuffix is what the names of drafts' lock files end in.
const lockSuffix = ".lock"

// lockedDir is a directory whose lock is held.
type lockedDir struct {
	*dirStore
	top  *beneath.Dir // the store's directory
	mark *os.File     // its flock is the lock
	made []madeEntry  // what Lock made of the store, outermost first
}

// madeEntry is what was made in a directory.
type madeEntry struct {
	in   *beneath.Dir
	name string
}

// Lock takes the flock on the store's mark.
func (s *dirStore) Lock(create bool) (Locked, error) {
	if s.trust == beneath.OfAnyone {
		s = &dirStore{path: s.path}
	}
	l := &lockedDir{dirStore: s}
	var err error
	if !create {
		if l.top, err = s.root(); err != nil {
			return nil, err
		}
		if l.mark, err = lockMark(l.top); err != nil {
			return nil, err
		}
		return l, nil
	}
	err = l.makeStore()
	for try := 0; errors.Is(err, fs.ErrNotExist) && try < 100; try++ {
		s.forget()
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
	if err := l.openOrMake(); err != nil {
		return err
	}
	if !l.top.Has(markFile) {
		if err := mustBeEmpty(l.top); err != nil {
			return err
		}
	}
	mark, err := lockMark(l.top)
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

// openOrMake opens the store's directory, and makes it and those above it if there is none.
func (l *lockedDir) openOrMake() (err error) {
	if l.top, err = l.root(); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	path := filepath.Clean(l.path)
	up, err := l.makeAll(filepath.Dir(path))
	if err != nil {
		return err
	}
	d, err := l.makeIn(up, filepath.Base(path), beneath.OfOurs)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.top, l.opened = d, d
	return nil
}

// makeAll opens a directory above a store, which is whosever it is.
func (l *lockedDir) makeAll(path string) (*beneath.Dir, error) {
	d, err := beneath.Open(path, beneath.OfAnyone)
	if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(path) == path {
		return d, err
	}
	up, err := l.makeAll(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	return l.makeIn(up, filepath.Base(path), beneath.OfAnyone)
}

// makeIn opens a directory in another one, and notes it if it has made it.
func (l *lockedDir) makeIn(up *beneath.Dir, name string, t beneath.Trust) (*beneath.Dir, error) {
	d, made, err := up.SubOrMake(name, t)
	if made {
		l.made = append(l.made, madeEntry{up, name})
	}
	return d, err
}

// fillStore writes the mark of a new store and makes its directories.
func (l *lockedDir) fillStore() error {
	fi, err := l.mark.Stat()
	if err != nil {
		return err
	}
	if fi.Size() == 0 {
		if !beneath.OneName(l.mark) {
			return fault.New(fault.StoreForeign, l.mark.Name(), "it is an empty file that has other names, too")
		}
		l.made = append(l.made, madeEntry{l.top, markFile})
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
		d, err := l.makeIn(l.top, name, beneath.OfOurs)
		if err != nil {
			return err
		}
		_ = d.Close()
	}
	return l.top.Sync()
}

// Unmake removes what Lock made of the store, as far as it is empty: another writer may be using it by now. Without the
// store's lock only directories are removed.
func (l *lockedDir) Unmake() {
	for i := len(l.made) - 1; i >= 0; i-- {
		m := l.made[i]
		if m.name == markFile && m.in == l.top && l.mark == nil {
			continue
		}
		if err := m.in.Remove(m.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
}

// lockMark takes the store's lock; closing the file releases it.
func lockMark(dir *beneath.Dir) (*os.File, error) {
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		f, err := dir.OpenOrCreate(markFile)
		if err != nil {
			return nil, err
		}
		ok, err := tryLock(f)
		if ok && dir.Leads(markFile, f) { // else an Abort has removed the store while we waited for its lock
			return f, nil
		}
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("lock the store: %w", err)
		}
		if time.Now().After(deadline) {
			return nil, fault.New(fault.StoreBusy, dir.Path(""), "its lock was not free for %v", lockPatience)
		}
	}
}

// mustBeEmpty refuses to make a store among other things. The lost+found of a fresh file system does not count.
func mustBeEmpty(dir *beneath.Dir) error {
	names, err := dir.Names()
	if err != nil || slices.Contains(names, markFile) { // another writer makes it a store at this moment
		return err
	}
	for _, name := range names {
		if name != "lost+found" {
			return fault.New(fault.StoreNotStore, dir.Path(""), "it holds %q and was not made by bpfckpt", name)
		}
	}
	return nil
}
