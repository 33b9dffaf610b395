package image

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
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
func (im Images) checkName(name, but string) error {
	if name == "" {
		return nil
	}
	if !validName(name) || isID(name) {
		return fault.New(fault.StoreOption, fmt.Sprintf("name %q", name), "an image cannot be called so").
			WithRemedy("use at most %d of A-Z a-z 0-9 . _ - that do not look like an id", maxName)
	}
	infos, _, err := im.scan()
	if err != nil {
		return err
	}
	for _, i := range infos {
		if i.Name == name && i.ID != but {
			return fault.New(fault.StoreName, im.store.Name(), "image %s is called %s", i.ID, name)
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

// isDir reports whether path is a directory.
func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// shortestID is the least of an id that stands for it: a name that is gone must not come to mean another image by its
// first letter.
const shortestID = 4

// find returns the id of the image in the store that a name, an id or the beginning of one means.
func (im Images) find(name string) (string, error) {
	if err := im.store.Check(); err != nil {
		return "", err
	}
	infos, broken, err := im.scan()
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
		return "", fault.New(fault.StoreAmbiguous, im.store.Name()+"@"+name, "it can be %s", strings.Join(fits, ", "))
	}
	for _, err := range broken {
		return "", err // the name may be that image's
	}
	return "", fault.New(fault.StoreNoImage, im.store.Name()+"@"+name,
		"the store has %d images, none with this name or id", len(infos))
}

// resolve returns the id that a name means; "" is the head.
func (im Images) resolve(name string) (string, error) {
	if name == "" {
		return im.Head()
	}
	return im.find(name)
}

// Head returns the id of the image that a store's directory alone means; see Images.Head.
func Head(dir string) (string, error) {
	im, done := imagesIn(dir, beneath.OfOurs)
	defer done()
	return im.Head()
}

// Head returns the id of the image that the store's name alone means. The faults are E_STORE_NOT_FOUND for a store
// without images, E_STORE_AMBIGUOUS for one that lost its head, and E_IMAGE_* for a damaged one.
func (im Images) Head() (string, error) {
	if err := im.store.Check(); err != nil {
		return "", err
	}
	id, err := im.store.Head()
	if id != "" || err != nil {
		return id, err
	}
	// A store without a head: its writer died between publishing its first image and the head.
	ids, err := im.ids()
	switch {
	case err != nil:
		return "", err
	case len(ids) == 0:
		return "", fault.New(fault.StoreNotFound, im.store.Name(), "the store has no image")
	case len(ids) > 1:
		return "", fault.New(fault.StoreAmbiguous, im.store.Name(), "the store has no head and the images %s",
			strings.Join(ids, ", ")).
			WithRemedy("name the image: DIR@ID")
	}
	return ids[0], nil
}

// List returns what the images of a directory are; see Images.List.
func List(dir string) ([]Info, error) {
	im, done := imagesIn(dir, beneath.OfOurs)
	defer done()
	return im.List()
}

// List returns what the images of a store are, oldest first. Removed ones whose data is still referenced are not
// images. A damaged image is left out and its fault joined to the error, so that the list is usable even then.
func (im Images) List() ([]Info, error) {
	if err := im.store.Check(); err != nil {
		return nil, err
	}
	infos, broken, err := im.scan()
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
func (im Images) scan() (infos []Info, broken map[string]error, err error) {
	ids, err := im.ids()
	if err != nil {
		return nil, nil, err
	}
	broken = map[string]error{}
	for _, id := range ids {
		info, err := im.info(id)
		if err != nil {
			if im.there(id) { // not removed at this moment
				broken[id] = err
			}
			continue
		}
		infos = append(infos, info)
	}
	replaced := map[string]bool{}
	for i := range infos {
		for _, id := range infos[i].Replaces {
			replaced[id] = true
		}
	}
	return slices.DeleteFunc(infos, func(i Info) bool { return replaced[i.ID] }), broken, nil
}

// info reads what an image is.
func (im Images) info(id string) (Info, error) {
	rec, err := readInfo(published{im.store, id}, PartInfo, id)
	if err != nil {
		return Info{}, err
	}
	return rec.info(im.store.Name()), nil
}

// there reports whether something of an image is there, and it is not removed. What is dropped at this moment is a
// tombstone first, and then not in the list.
func (im Images) there(id string) bool {
	if im.isTombstone(id) {
		return false
	}
	ids, err := im.store.IDs()
	return err != nil || slices.Contains(ids, id)
}

// ids lists the images of a store.
func (im Images) ids() ([]string, error) {
	ids, err := im.store.IDs()
	return slices.DeleteFunc(ids, im.isTombstone), err
}
