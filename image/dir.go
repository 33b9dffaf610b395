package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Names in a store's directory.
const (
	markFile  = "store"
	headFile  = "head"
	imagesDir = "images"
	tmpDir    = "tmp"
)

// dirStore is a directory as a store. It is opened and looked at once, and everything in it is named by that descriptor:
// whoever moves the path elsewhere meanwhile changes nothing.
type dirStore struct {
	path  string
	trust beneath.Trust

	mu     sync.Mutex
	opened *beneath.Dir // nil until it is needed
}

// Dir returns the store that a directory is, or is to become. Where others can have put something it is refused
// (E_STORE_FOREIGN), once it is used.
func Dir(path string) Store { return &dirStore{path: path} }

// imagesIn is the images of a directory. Under beneath.OfAnyone it can be read whosever it is; links are not followed
// there either, and what changes the store is as with Dir. done lets the descriptor go.
func imagesIn(path string, t beneath.Trust) (im Images, done func()) {
	s := &dirStore{path: path, trust: t}
	return In(s), s.close
}

func (s *dirStore) Name() string { return s.path }

// root opens the directory when it is first needed.
func (s *dirStore) root() (*beneath.Dir, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened != nil {
		return s.opened, nil
	}
	d, err := beneath.Open(s.path, s.trust)
	if err == nil {
		s.opened = d
	}
	return d, err
}

// forget makes that the path is looked up anew: what it led to is not there any more, and may be made again. Who is
// using what was opened can go on.
func (s *dirStore) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened = nil
}

// close lets the directory go, until it is needed again.
func (s *dirStore) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened != nil {
		_ = s.opened.Close()
		s.opened = nil
	}
}

// sub opens one of the directories of the store.
func (s *dirStore) sub(name string) (*beneath.Dir, error) {
	d, err := s.root()
	if err != nil {
		return nil, err
	}
	return d.Sub(name)
}

// in calls do with the directory of a published image.
func (s *dirStore) in(id string, do func(d *beneath.Dir) error) error {
	images, err := s.sub(imagesDir)
	if err != nil {
		return err
	}
	defer func() { _ = images.Close() }()
	d, err := images.Sub(id)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return do(d)
}

// Check checks the mark of the store.
func (s *dirStore) Check() error {
	path := filepath.Join(s.path, markFile)
	var b []byte
	d, err := s.root()
	if err == nil {
		b, err = d.Read(markFile, int64(len(storeMark))+1)
	}
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
		s.forget()
		return fault.New(fault.StoreNotFound, s.path, "there is no image in this directory")
	case err != nil:
		return readFault(path, err)
	case len(b) < len(storeMark):
		return fault.New(fault.ImageTruncated, path, "the store's mark has %d bytes", len(b))
	}
	return fault.New(fault.ImageVersion, path, "the store's mark is %q; this release reads %q", b, storeMark)
}

// IDs lists what is named like images, whatever it is: that is told when it is opened.
func (s *dirStore) IDs() ([]string, error) {
	images, err := s.sub(imagesDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, readFault(filepath.Join(s.path, imagesDir), err)
	}
	defer func() { _ = images.Close() }()
	names, err := images.Names()
	if err != nil {
		return nil, readFault(s.path, err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !isID(name) }), nil
}

func (s *dirStore) Has(id string, p Part) bool {
	there := false
	_ = s.in(id, func(d *beneath.Dir) error {
		there = d.Has(string(p))
		return nil
	})
	return there
}

// Open opens a part; one of data keeps others from making holes in it.
func (s *dirStore) Open(id string, p Part) (PartFile, error) {
	var f dirFile
	err := s.in(id, func(d *beneath.Dir) (err error) {
		f, err = openDirFile(d, p)
		return err
	})
	if err != nil {
		return nil, readFault(filepath.Join(s.path, imagesDir, id, string(p)), err)
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

func openDirFile(d *beneath.Dir, p Part) (dirFile, error) {
	f, err := d.Open(string(p), os.O_RDONLY)
	if err != nil {
		return dirFile{}, err
	}
	fi, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return dirFile{}, err
	}
	return dirFile{f, fi.Size()}, nil
}

// Head reads the head file.
func (s *dirStore) Head() (string, error) {
	path := filepath.Join(s.path, headFile)
	d, err := s.root()
	var b []byte
	if err == nil {
		b, err = d.Read(headFile, int64(len(headBytes(strings.Repeat("0", idDigits))))+1)
	}
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

// Pinned reads the lock files of writers at work.
func (s *dirStore) Pinned() []string {
	tmp, err := s.sub(tmpDir)
	if err != nil {
		return nil
	}
	defer func() { _ = tmp.Close() }()
	var out []string
	names, _ := tmp.Names()
	for _, name := range names {
		if !strings.HasSuffix(name, lockSuffix) {
			continue
		}
		b, err := tmp.Read(name, idDigits)
		if err == nil && isID(string(b)) && !isFree(tmp, name) {
			out = append(out, string(b))
		}
	}
	return out
}
