package image

import (
	"cmp"
	"errors"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// A removed image has PartRemoved instead of PartInfo: with that it is gone for everyone who looks for images. What is
// left, a tombstone, goes when no image references its data any more.

// isImage reports whether the store has an image with this id, whole or not.
func (im Images) isImage(id string) bool { return im.store.Has(id, PartInfo) }

// isTombstone reports whether an id is what is left of a removed image.
func (im Images) isTombstone(id string) bool {
	return !im.isImage(id) && im.store.Has(id, PartRemoved)
}

// successor returns the id of the image that has taken the place of one that is gone, or the id itself.
func (im Images) successor(id string) string {
	infos, _, _ := im.scan() // whoever asks says what is wrong with the id
	for i := range infos {
		if slices.Contains(infos[i].Replaces, id) {
			return infos[i].ID
		}
	}
	return id
}

// tombstones lists the removed images whose data is still there.
func (im Images) tombstones() ([]string, error) {
	ids, err := im.store.IDs()
	return slices.DeleteFunc(ids, func(id string) bool { return !im.isTombstone(id) }), err
}

// Node is an image as part of its store.
type Node struct {
	Info
	Base      string   // id of the nearest ancestor that is still there, "" if none is
	Head      bool     // the store's directory alone means this image
	Referrers []string // ids of images that have pages in its data file
}

// Tree returns the images of a directory and how they hang together; see Images.Tree. It only looks, as View does.
func Tree(dir string) ([]Node, error) {
	im, done := imagesIn(dir, beneath.OfAnyone)
	defer done()
	return im.Tree()
}

// Tree returns the images of a store, oldest first, and how they hang together. Like List it leaves out damaged images
// and says so in the error.
func (im Images) Tree() ([]Node, error) {
	infos, err := im.List()
	if len(infos) == 0 {
		return nil, err
	}
	head, herr := im.Head()
	f := newForest(im, infos)
	nodes := make([]Node, len(infos))
	for i := range infos {
		nodes[i] = Node{Info: infos[i], Base: f.base(infos[i].Parent), Head: infos[i].ID == head ||
			slices.Contains(infos[i].Replaces, head)}
		for j := range infos {
			if slices.Contains(infos[j].Referenced, infos[i].ID) {
				nodes[i].Referrers = append(nodes[i].Referrers, infos[j].ID)
			}
		}
	}
	return nodes, errors.Join(err, herr)
}

// forest finds ancestors among images of which some are gone.
type forest struct {
	images     Images
	live       map[string]*Info
	successors map[string]string // id of a replaced image -> that of the one in its place
}

func newForest(im Images, infos []Info) *forest {
	f := &forest{images: im, live: map[string]*Info{}, successors: map[string]string{}}
	for i := range infos {
		f.live[infos[i].ID] = &infos[i]
		for _, id := range infos[i].Replaces {
			f.successors[id] = infos[i].ID
		}
	}
	return f
}

// base returns id if it is there, else the image in its place or the nearest of its ancestors; "" if there is none.
func (f *forest) base(id string) string {
	for range maxImages { // a damaged store may have a ring
		if !isID(id) {
			return ""
		}
		if f.live[id] != nil {
			return id
		}
		if successor := f.successors[id]; successor != "" {
			id = successor
			continue
		}
		rec, err := readInfo(published{f.images.store, id}, PartRemoved, id)
		if err != nil {
			return ""
		}
		id = rec.Parent
	}
	return ""
}

// Origin is what is known of a process that is to be saved.
type Origin struct {
	Root
	Restored string // id of the image it was restored from, "" if it was not or nobody knows
}

// ParentOf tells which image of a directory the next one of a process continues; see Images.ParentOf.
func ParentOf(dir string, o Origin) (id string, same bool, err error) {
	im, done := imagesIn(dir, beneath.OfOurs)
	defer done()
	return im.ParentOf(o)
}

// ParentOf tells which image of a store the next one of a process continues: the last one of this very process, and
// then same is true, or the one it was restored from, so that going back to an older image and saving again makes a
// branch; "" if there is neither. Without same, pages of the parent may be compared with but not kept unseen.
func (im Images) ParentOf(o Origin) (id string, same bool, err error) {
	if err := im.store.Check(); err != nil {
		if errors.Is(err, &fault.Error{Code: fault.StoreNotFound}) {
			return "", false, nil
		}
		return "", false, err
	}
	infos, _, err := im.scan()
	if err != nil {
		return "", false, err
	}
	f := newForest(im, infos)
	var last *Info
	if o.Boot != "" && o.Start != 0 {
		last = lastOf(f, infos, o.Root)
	}
	if last != nil {
		return last.ID, true, nil
	}
	return f.base(o.Restored), false, nil
}

// lastOf returns the last image of a process: the newest of those that no other one of it continues. The wall clock
// alone would not do, it may be set back.
func lastOf(f *forest, infos []Info, root Root) *Info {
	continued := map[string]bool{}
	for i := range infos {
		if infos[i].Root.is(root) {
			continued[f.base(infos[i].Parent)] = true
		}
	}
	var last *Info
	for i := range infos {
		if n := &infos[i]; n.Root.is(root) && !continued[n.ID] &&
			(last == nil || cmp.Compare(n.Created, last.Created) > 0) {
			last = n
		}
	}
	return last
}

// is reports whether two names are of the same process. Earlier versions did not know its pid namespace.
func (r Root) is(o Root) bool {
	if r.PidNS == 0 || o.PidNS == 0 {
		r.PidNS, o.PidNS = 0, 0
	}
	return r == o
}
