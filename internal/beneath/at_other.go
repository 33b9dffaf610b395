//go:build !linux && !darwin && !freebsd && !netbsd && !openbsd && !dragonfly

package beneath

import (
	"errors"
	"io/fs"
	"os"
)

// handle is a directory as package os can hold one: links in it that stay below it are seen only before they are
// followed. Who owns a file is not known.
type handle struct{ root *os.Root }

func openHandle(path string) (handle, error) {
	r, err := os.OpenRoot(path)
	return handle{r}, err
}

func (h handle) open(name string, flag int, mode uint32) (*os.File, error) {
	if flag != os.O_RDONLY {
		return nil, errors.ErrUnsupported
	}
	e, err := h.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !e.Type.IsRegular() && !e.Type.IsDir() {
		return nil, odd(name, e.Type)
	}
	return h.root.OpenFile(name, flag, fs.FileMode(mode))
}

func (h handle) sub(name string) (handle, error) {
	e, err := h.Lstat(name)
	if err != nil {
		return handle{}, err
	}
	if !e.Type.IsDir() {
		return handle{}, odd(name, e.Type)
	}
	r, err := h.root.OpenRoot(name)
	return handle{r}, err
}

func (h handle) stat() (fs.FileInfo, error) { return h.root.Stat(".") }

// Close lets the directory go.
func (h handle) Close() error { return h.root.Close() }

// Names lists the directory, in no order.
func (h handle) Names() ([]string, error) {
	d, err := h.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	return d.Readdirnames(-1)
}

// Lstat tells what there is under a name.
func (h handle) Lstat(name string) (Entry, error) {
	if err := plain(name); err != nil {
		return Entry{}, err
	}
	fi, err := h.root.Lstat(name)
	if err != nil {
		return Entry{}, err
	}
	return Entry{Type: fi.Mode().Type(), Blocks: fi.Size()}, nil
}

// Sync and what changes a directory fail: see the package comment.
func (h handle) Sync() error                       { return errors.ErrUnsupported }
func (h handle) Mkdir(string) error                { return errors.ErrUnsupported }
func (h handle) Remove(string) error               { return errors.ErrUnsupported }
func (h handle) Rename(string, *Dir, string) error { return errors.ErrUnsupported }
func (h handle) Leads(string, *os.File) bool       { return false }

func ownerOf(fs.FileInfo) (uid uint32, known bool) { return 0, false }

func trusted(uint32) bool { return true }

// OneName is false: nobody knows.
func OneName(*os.File) bool { return false }
