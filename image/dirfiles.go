package image

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// globEscape quotes what filepath.Glob takes for patterns.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// punch gives the disk blocks of a data file back that hold none of the extents. Readers of a removed image may still
// have the file open; then it is left for another time.
func punch(path string, used []Extent) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil // it is in nobody's way
	}
	defer func() { _ = f.Close() }()
	if ok, err := tryLock(f); !ok || err != nil {
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
func (l *lockedDir) Size(id string) int64 {
	entries, err := os.ReadDir(l.image(id))
	if err != nil {
		return 0
	}
	var n int64
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			n += blocks(fi)
		}
	}
	return n
}

// mkdirAll makes a directory and those above it, and notes the ones it made.
func (l *lockedDir) mkdirAll(path string) error {
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(path) != path {
		if err := l.mkdirAll(filepath.Dir(path)); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o700)
	}
	if err == nil {
		l.made = append(l.made, path)
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

// lockDir takes the store's lock; closing the file releases it.
func lockDir(dir string) (*os.File, error) {
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
func writeFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// headBytes is the content of the head file for an id.
func headBytes(id string) []byte { return fmt.Appendf(nil, "%s %016x\n", id, xxhash.Sum64String(id)) }

// readSmall reads at most limit bytes of a regular file.
func readSmall(path string, limit int64) ([]byte, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, min(limit, fi.Size()))
	n, err := f.ReadAt(b, 0)
	if n == len(b) {
		err = nil
	}
	return b[:n], err
}

// isDir reports whether path is a directory.
func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}
