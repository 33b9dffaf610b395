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

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// maxName is the length of the longest name of an image in bytes.
const maxName = 64

// validName reports whether an image may be called so.
func validName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for i := range len(name) {
		c := name[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || i > 0 &&
			(c == '.' || c == '-')
		if !ok {
			return false
		}
	}
	return true
}

// checkName checks that an image may be named so in the store; "" is no name. The image but may have the name. The
// store is locked.
func checkName(dir, name, but string) error {
	if name == "" {
		return nil
	}
	if !validName(name) || isID(name) {
		return fault.New(fault.StoreOption, fmt.Sprintf("name %q", name), "an image cannot be called so").
			WithRemedy("use at most %d of A-Z a-z 0-9 . _ - that do not look like an id", maxName)
	}
	infos, _, err := scan(dir)
	if err != nil {
		return err
	}
	for _, i := range infos {
		if i.Name == name && i.ID != but {
			return fault.New(fault.StoreName, dir, "image %s is called %s", i.ID, name)
		}
	}
	return nil
}

// SplitRef takes a reference apart: DIR, which is the head and has the name "", or DIR@NAME. It does not look for the
// image.
func SplitRef(ref string) (dir, name string, err error) {
	if isDir(ref) {
		return ref, "", nil
	}
	i := strings.LastIndexByte(ref, '@')
	if i <= 0 || i == len(ref)-1 || !isDir(ref[:i]) {
		return "", "", fault.New(fault.StoreNotFound, ref, "there is no such directory")
	}
	return ref[:i], ref[i+1:], nil
}

// resolve finds the store and the id that a reference means: DIR, DIR@NAME, DIR@ID or DIR@ the beginning of an ID.
func resolve(ref string) (dir, id string, err error) {
	dir, name, err := SplitRef(ref)
	switch {
	case err != nil:
	case name == "":
		id, err = Head(dir)
	default:
		id, err = find(dir, name)
	}
	return dir, id, err
}

// isDir reports whether path is a directory.
func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// shortestID is the least of an id that stands for it: a name that is gone must not come to mean another image by its
// first letter.
const shortestID = 4

// find returns the id of the image in the store that a name, an id or the beginning of one means.
func find(dir, name string) (string, error) {
	if err := checkMark(dir); err != nil {
		return "", err
	}
	infos, broken, err := scan(dir)
	if err != nil {
		return "", err
	}
	var fits []string
	for _, i := range infos {
		if i.Name == name {
			return i.ID, nil
		}
	}
	for id := range broken {
		infos = append(infos, Info{ID: id})
	}
	for _, i := range infos {
		if len(name) >= shortestID && strings.HasPrefix(i.ID, name) || slices.Contains(i.Replaces, name) {
			fits = append(fits, i.ID)
		}
	}
	switch {
	case len(fits) == 1:
		return fits[0], nil
	case len(fits) > 1:
		slices.Sort(fits)
		return "", fault.New(fault.StoreAmbiguous, dir+"@"+name, "it can be %s", strings.Join(fits, ", "))
	}
	for _, err := range broken {
		return "", err // the name may be that image's
	}
	return "", fault.New(fault.StoreNoImage, dir+"@"+name, "the store has %d images, none with this name or id",
		len(infos))
}

// Head returns the id of the image that the store's directory alone means. The faults are E_STORE_NOT_FOUND for a
// directory without images, E_STORE_AMBIGUOUS for a store that lost its head, and E_IMAGE_* for a damaged store.
func Head(dir string) (string, error) {
	if err := checkMark(dir); err != nil {
		return "", err
	}
	path := filepath.Join(dir, headFile)
	b, err := readSmall(path, int64(len(headBytes(strings.Repeat("0", idDigits))))+1)
	if errors.Is(err, fs.ErrNotExist) {
		return onlyImage(dir)
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

// onlyImage returns the image of a store without a head: its writer died between publishing its first image and the
// head.
func onlyImage(dir string) (string, error) {
	ids, err := imageIDs(dir)
	switch {
	case err != nil:
		return "", err
	case len(ids) == 0:
		return "", fault.New(fault.StoreNotFound, dir, "the store has no image")
	case len(ids) > 1:
		return "", fault.New(fault.StoreAmbiguous, dir, "the store has no head and the images %s",
			strings.Join(ids, ", ")).
			WithRemedy("name the image: DIR@ID")
	}
	return ids[0], nil
}

// List returns what the images of a store are, oldest first. Removed ones that still lend their data are not images. A
// damaged image is left out and its fault joined to the error, so that the list is usable even then.
func List(dir string) ([]Info, error) {
	if err := checkMark(dir); err != nil {
		return nil, err
	}
	infos, broken, err := scan(dir)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(infos, func(a, b Info) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created),
			cmp.Compare(a.ID, b.ID))
	})
	for _, e := range broken {
		err = errors.Join(err, e)
	}
	return infos, err
}

// scan reads the info of every image in a store. The images it cannot read are in broken.
func scan(dir string) (infos []Info, broken map[string]error, err error) {
	ids, err := imageIDs(dir)
	if err != nil {
		return nil, nil, err
	}
	broken = map[string]error{}
	for _, id := range ids {
		rec, err := readInfo(filepath.Join(dir, imagesDir, id), id)
		if err != nil {
			if !isTombstone(dir, id) && isDir(filepath.Join(dir, imagesDir, id)) { // not removed at this moment
				broken[id] = err
			}
			continue
		}
		infos = append(infos, rec.info(dir))
	}
	replaced := map[string]bool{}
	for i := range infos {
		for _, id := range infos[i].Replaces {
			replaced[id] = true
		}
	}
	return slices.DeleteFunc(infos, func(i Info) bool { return replaced[i.ID] }), broken, nil
}

// imageIDs lists the images of a store.
func imageIDs(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, imagesDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, readFault(dir, err)
	}
	var ids []string
	for _, e := range entries {
		if isID(e.Name()) && !isTombstone(dir, e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// checkMark checks that a directory is a store of this format.
func checkMark(dir string) error {
	path := filepath.Join(dir, markFile)
	b, err := readSmall(path, int64(len(storeMark))+1)
	if errors.Is(err, syscall.ENOTDIR) {
		return writeFault(dir, err)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return readFault(path, err)
	}
	if string(b) == storeMark {
		return nil
	}
	ids, _ := imageIDs(dir)
	switch {
	case len(b) == 0 && len(ids) == 0:
		return fault.New(fault.StoreNotFound, dir, "there is no image in this directory")
	case err != nil:
		return readFault(path, err)
	case len(b) < len(storeMark):
		return fault.New(fault.ImageTruncated, path, "the store's mark has %d bytes", len(b))
	}
	return fault.New(fault.ImageVersion, path, "the store's mark is %q; this release reads %q", b, storeMark)
}

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
