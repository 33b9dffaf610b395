// Package beneath names files by a directory that was opened once, and never follows a link below it. What is opened is
// looked at through its descriptor, so that nothing can be put in its place between the check and the use: a directory
// must be one, a file must be a regular file, and both, if that is asked for, must be such that nobody but root and the
// user we are can have put them there or can write to them.
//
// A name is one element of a path. Every open(2) of one is an openat(2) with O_NOFOLLOW, which with a single element is
// what openat2(2) calls RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, and with O_NONBLOCK, so that a FIFO does not make it
// wait. Systems without openat(2) can read, but not write.
package beneath

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Trust says whose files are taken.
type Trust bool

// Kinds of trust.
const (
	// OfOurs takes what root or we own and nobody else can write to. It is for who acts on what he reads.
	OfOurs Trust = false
	// OfAnyone takes everything. It is for who only looks.
	OfAnyone Trust = true
)

// ErrKind is wrapped by errors about what is neither a directory nor a regular file where one of them should be.
var ErrKind = errors.New("it is not followed or read")

// Dir is an open directory. It is safe for concurrent use.
type Dir struct {
	handle
	path  string
	trust Trust
}

// Open opens a directory by its path, through links like any program: the user named it. But a link that another user
// made is refused under OfOurs, as in a directory that everybody can write to. The faults are E_STORE_FOREIGN, other
// errors those of os.
func Open(path string, t Trust) (*Dir, error) {
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&fs.ModeSymlink != 0 && t == OfOurs {
		if uid, known := ownerOf(fi); known && !trusted(uid) {
			return nil, foreign(path, "the link belongs to user %d", uid).
				WithRemedy("name the directory that it leads to, if that is what you want")
		}
	}
	h, err := openHandle(path)
	if err != nil {
		return nil, err
	}
	return checked(h, path, t)
}

// checked is an opened directory as a Dir, if it may be one.
func checked(h handle, path string, t Trust) (*Dir, error) {
	fi, err := h.stat()
	if err == nil {
		err = t.check(fi, path)
	}
	if err != nil {
		_ = h.Close()
		return nil, err
	}
	return &Dir{h, path, t}, nil
}

// check refuses what others can have made or changed. Others may add names to a directory with the sticky bit, as to
// /tmp; what they add is theirs, and refused when it is opened.
func (t Trust) check(fi fs.FileInfo, path string) error {
	uid, known := ownerOf(fi)
	writable := fi.Mode().Perm()&0o022 != 0 && !(fi.IsDir() && fi.Mode()&fs.ModeSticky != 0)
	switch {
	case t == OfAnyone || !known:
		return nil
	case !trusted(uid):
		return foreign(path, "it belongs to user %d", uid)
	case writable:
		return foreign(path, "its mode %04o lets others write to it", fi.Mode().Perm()).
			WithRemedy("if nobody has put anything there that you do not trust: chmod -R go-w %q", path)
	}
	return nil
}

func foreign(path, format string, args ...any) *fault.Error {
	return fault.New(fault.StoreForeign, path, format, args...)
}

// Path is the path of what has a name in the directory, for messages; of the directory itself with "".
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// Sub opens a directory in this one.
func (d *Dir) Sub(name string) (*Dir, error) {
	h, err := d.sub(name)
	if err != nil {
		return nil, d.oddOr(name, err)
	}
	return checked(h, d.Path(name), d.trust)
}

// SubOrMake is Sub under a trust of its own, and makes the directory if there is none. made is right with an error too.
func (d *Dir) SubOrMake(name string, t Trust) (sub *Dir, made bool, err error) {
	if err = d.Mkdir(name); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, false, err
	}
	made = err == nil
	sub, err = (&Dir{d.handle, d.path, t}).Sub(name)
	return sub, made, err
}

// Open opens a file that is there, with the access mode of flag.
func (d *Dir) Open(name string, flag int) (*os.File, error) {
	f, err := d.open(name, flag, 0)
	if err != nil {
		return nil, d.oddOr(name, err)
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular():
		err = odd(d.Path(name), fi.Mode())
	default:
		err = d.trust.check(fi, d.Path(name))
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// OpenBelow opens a file for reading that is in a directory of ours and the directories named after it.
func OpenBelow(path string, names ...string) (*os.File, error) {
	d, err := Open(path, OfOurs)
	for ; err == nil && len(names) > 1; names = names[1:] {
		up := d
		d, err = up.Sub(names[0])
		_ = up.Close()
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	return d.Open(names[0], os.O_RDONLY)
}

// Create makes a file, which was not there, of mode 0600.
func (d *Dir) Create(name string) (*os.File, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// OpenOrCreate opens a file for reading and writing, and makes it if there is none.
func (d *Dir) OpenOrCreate(name string) (*os.File, error) {
	for {
		f, err := d.Open(name, os.O_RDWR)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		if f, err = d.Create(name); !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

// CreateTemp makes a file whose name begins with prefix.
func (d *Dir) CreateTemp(prefix string) (*os.File, error) {
	for {
		var b [6]byte
		_, _ = rand.Read(b[:]) // does not fail
		if f, err := d.Create(prefix + hex.EncodeToString(b[:])); !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

// Write makes a durable file.
func (d *Dir) Write(name string, content []byte) error {
	f, err := d.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// Read returns the content of a file, at most limit bytes of it.
func (d *Dir) Read(name string, limit int64) ([]byte, error) {
	f, err := d.Open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, limit))
}

// Replace makes a file that has the content, durably, instead of the one with this name, if any.
func (d *Dir) Replace(name string, content []byte) error {
	f, err := d.CreateTemp("." + name + "-")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = d.Rename(filepath.Base(f.Name()), d, name)
	}
	if err != nil {
		_ = d.Remove(filepath.Base(f.Name()))
		return err
	}
	return d.Sync()
}

// Has reports whether there is something with this name.
func (d *Dir) Has(name string) bool {
	_, err := d.Lstat(name)
	return err == nil
}

// RemoveAll removes what has a name, with all that is below it, whosever it is; nil if there is nothing.
func (d *Dir) RemoveAll(name string) error {
	err := d.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	h, serr := d.sub(name)
	if serr != nil {
		return err
	}
	below := &Dir{h, d.Path(name), OfAnyone}
	defer func() { _ = below.Close() }()
	names, err := below.Names()
	for _, n := range names {
		err = errors.Join(err, below.RemoveAll(n))
	}
	if err != nil {
		return err
	}
	return d.Remove(name)
}

// oddOr is the error for a name that could not be opened: what is there instead, if it is something else.
func (d *Dir) oddOr(name string, err error) error {
	if e, lerr := d.Lstat(name); lerr == nil && !e.Type.IsRegular() && !e.Type.IsDir() {
		return odd(d.Path(name), e.Type)
	}
	return err
}

// odd is the error about something that is neither a directory nor a regular file.
func odd(path string, mode fs.FileMode) error {
	what := "not a regular file"
	switch {
	case mode&fs.ModeSymlink != 0:
		what = "a symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		what = "a FIFO"
	case mode.IsDir():
		what = "a directory"
	}
	return &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("it is %s: %w", what, ErrKind)}
}

// Entry is what there is under a name.
type Entry struct {
	Type   fs.FileMode // as of fs.FileMode.Type
	Blocks int64       // bytes of disk
	file   [2]uint64   // device and inode
}

// plain is a name that is one element.
func plain(name string) error {
	if name == "" || name == "." || name == ".." || filepath.Base(name) != name {
		return &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return nil
}
