package image

import (
	"cmp"
	"errors"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Removal tells what Remove and Prune did.
type Removal struct {
	Removed    []string // ids of the images that are gone, oldest first
	Referenced []string // ids of gone images, of this call and of earlier ones, whose data others still reference
	Kept       int      // images that are left
	Freed      int64    // bytes of disk
	Head       string   // id of the head now, "" if there is no image left
	// Doubt is why data that nobody seems to need was kept, nil if there is no such data: a damaged image may be one
	// that needs it.
	Doubt error
}

// PruneOptions says what Prune leaves.
type PruneOptions struct {
	Keep  int  // how many of the newest images that have no name; the head always stays
	Names bool // those with a name count like the others; else all of them stay
	Try   bool // only tell what would be removed
}

// Remove removes images from a directory; see Images.Remove.
func Remove(dir string, names ...string) (Removal, error) {
	im, done := imagesIn(dir, beneath.OfOurs)
	defer done()
	return im.Remove(names...)
}

// Prune removes all but the newest images of a directory; see Images.Prune.
func Prune(dir string, o PruneOptions) (Removal, error) {
	im, done := imagesIn(dir, beneath.OfOurs)
	defer done()
	return im.Prune(o)
}

// Remove removes images from a store by their names, ids or beginnings of ids. The data of one that others reference
// stays until the last of those goes. If it was the head, the nearest ancestor that is left becomes the head, or else
// the newest image. Each image goes by one rename: whenever this is killed, every image is whole or gone, and the next
// call takes away what is left over.
func (im Images) Remove(names ...string) (Removal, error) {
	return im.change(func() ([]string, error) {
		var ids []string
		pinned := im.store.Pinned()
		for _, name := range names {
			id, err := im.find(name)
			if err != nil {
				return nil, err
			}
			if slices.Contains(pinned, id) {
				return nil, fault.New(fault.StorePinned, im.store.Name()+"@"+name, "an image that continues it is being written")
			}
			ids = append(ids, id)
		}
		slices.Sort(ids)
		return slices.Compact(ids), nil
	})
}

// Prune removes all but the newest images. An image that another one being written continues stays this time.
func (im Images) Prune(o PruneOptions) (Removal, error) {
	if o.Keep < 0 {
		return Removal{}, fault.New(fault.StoreOption, im.store.Name(), "%d images cannot be kept", o.Keep)
	}
	choose := func() ([]string, error) {
		infos, err := im.List()
		if err != nil && len(infos) == 0 {
			return nil, err
		}
		head, err := im.Head()
		if err != nil {
			return nil, err
		}
		pinned := im.store.Pinned()
		left := o.Keep
		var ids []string
		for _, i := range slices.Backward(infos) {
			named := i.Name != "" && !o.Names
			switch {
			case !named && left > 0:
				left--
			case named || i.ID == head || slices.Contains(i.Replaces, head) || slices.Contains(pinned, i.ID):
			default:
				ids = append(ids, i.ID)
			}
		}
		return ids, nil
	}
	if o.Try {
		ids, err := choose()
		slices.Reverse(ids)
		return Removal{Removed: ids}, err
	}
	return im.change(choose)
}

// lockedImages is the images of a store whose lock is held.
type lockedImages struct {
	Images
	l Locked
}

// change removes the images that choose names from a store, whose lock it holds meanwhile, and collects what is not
// needed any more.
func (im Images) change(choose func() ([]string, error)) (Removal, error) {
	name := im.store.Name()
	if err := im.store.Check(); err != nil {
		return Removal{}, err
	}
	l, err := im.store.Lock(false)
	if err != nil {
		return Removal{}, writeFault(name, err)
	}
	defer l.Unlock()
	locked := lockedImages{im, l}
	if err := locked.finishReplacing(); err != nil {
		return Removal{}, writeFault(name, err)
	}
	ids, err := choose()
	if err != nil {
		return Removal{}, err
	}
	for _, id := range ids {
		if err := im.checkParts(id); err != nil {
			return Removal{}, err
		}
	}
	if err := locked.moveHead(ids); err != nil {
		return Removal{}, writeFault(name, err)
	}
	for _, id := range ids {
		if err := l.Retire(id); err != nil {
			return Removal{}, writeFault(name, err)
		}
	}
	res, err := locked.collect()
	slices.Reverse(ids)
	res.Removed = ids
	res.Head, _ = im.Head() // none if there is no image left
	return res, writeFaultOrNil(name, err)
}

// checkParts refuses to remove an image of which a part is there that is none, a link for one: nobody knows what it is
// good for. A part that is missing, or damaged, is no reason.
func (im Images) checkParts(id string) error {
	for _, p := range []Part{PartInfo, PartState, PartPages, PartData, PartRemoved} {
		if !im.store.Has(id, p) {
			continue
		}
		f, err := im.store.Open(id, p)
		if err != nil {
			return err
		}
		_ = f.Close()
	}
	return nil
}

func writeFaultOrNil(path string, err error) error {
	if err == nil {
		return nil
	}
	return writeFault(path, err)
}

// moveHead makes another image the head if the head is among those that are to go.
func (im lockedImages) moveHead(ids []string) error {
	head, err := im.Head()
	if errors.Is(err, &fault.Error{Code: fault.StoreNotFound}) {
		return nil
	}
	if err == nil && !slices.Contains(ids, head) {
		return nil
	}
	if err != nil && len(ids) == 0 {
		return nil // not what we are here for
	}
	infos, _, err := im.scan()
	if err != nil {
		return err
	}
	infos = slices.DeleteFunc(infos, func(i Info) bool { return slices.Contains(ids, i.ID) })
	if len(infos) == 0 { // a store without a head is one with a single image, until that goes too
		return im.l.SetHead("")
	}
	f := newForest(im.Images, infos)
	next := f.base(f.ancestor(head))
	if next == "" {
		next = slices.MaxFunc(infos, func(a,
			b Info,
		) int {
			return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID))
		}).ID
	}
	return im.l.SetHead(next)
}

// ancestor returns the nearest ancestor of an image that is about to go, be it live, about to go too, or a tombstone.
func (f *forest) ancestor(id string) string {
	for range maxImages {
		info, err := f.images.info(id)
		if err != nil {
			return ""
		}
		if id = info.Parent; !f.images.isImage(id) || f.live[id] != nil {
			return id
		}
	}
	return ""
}

// finishReplacing completes what a squash that was killed has left: the replaced image goes. With an intruder in the
// store nothing is done.
func (im lockedImages) finishReplacing() error {
	infos, broken, err := im.scan()
	if err == nil {
		err = intruder(broken)
	}
	if err != nil {
		return err
	}
	pinned := im.store.Pinned()
	for i := range infos {
		for _, old := range infos[i].Replaces {
			if !im.isImage(old) || slices.Contains(pinned, old) {
				continue
			}
			if err := im.checkParts(old); err != nil {
				return err
			}
			if head, err := im.Head(); err == nil && head == old {
				if err := im.l.SetHead(infos[i].ID); err != nil {
					return err
				}
			}
			if err := im.l.Retire(old); err != nil {
				return err
			}
		}
	}
	return nil
}

// collect removes of the tombstones what no image needs.
func (im lockedImages) collect() (Removal, error) {
	var res Removal
	ids, err := im.tombstones()
	if err != nil {
		return res, err
	}
	infos, broken, err := im.scan()
	if err != nil {
		return res, err
	}
	res.Kept = len(infos)
	for _, err := range broken {
		res.Doubt = errors.Join(res.Doubt, err)
	}
	needed := map[string]bool{}
	for i := range infos {
		for _, id := range infos[i].Referenced {
			needed[id] = true
		}
	}
	for _, i := range im.replacedImages(infos) { // still whole, and still referencing others
		for _, id := range i.Referenced {
			needed[id] = true
		}
	}
	for _, id := range ids {
		before := im.l.Size(id)
		switch {
		case needed[id] || res.Doubt != nil:
			res.Referenced = append(res.Referenced, id)
			err = im.shrink(id, infos, res.Doubt == nil)
		default:
			err = im.l.Drop(id)
		}
		if err != nil {
			return res, err
		}
		res.Freed += before - im.l.Size(id)
	}
	return res, nil
}

// replacedImages are images that a squash has replaced but that could not go yet.
func (im Images) replacedImages(infos []Info) []Info {
	var out []Info
	for i := range infos {
		for _, old := range infos[i].Replaces {
			if info, err := im.info(old); err == nil {
				out = append(out, info)
			}
		}
	}
	return out
}

// shrink removes of a tombstone what others do not need: its state, its page map, and with sure the frames that no
// map names.
func (im lockedImages) shrink(id string, infos []Info, sure bool) error {
	if !sure {
		return im.l.Shrink(id, nil)
	}
	used := []Extent{}
	for _, i := range append(im.replacedImages(infos), infos...) {
		if !slices.Contains(i.Referenced, id) {
			continue
		}
		frames, err := im.framesIn(i.ID, id)
		if err != nil { // a damaged map: leave the data as it is
			return im.l.Shrink(id, nil)
		}
		for _, f := range frames {
			used = append(used, Extent{f.offset, uint64(f.stored)})
		}
	}
	return im.l.Shrink(id, used)
}

// framesIn returns the frames of a referenced image that an image's page map names.
func (im Images) framesIn(id, of string) ([]frame, error) {
	from := published{im.store, id}
	rec, err := readInfo(from, PartInfo, id)
	if err != nil {
		return nil, err
	}
	m, err := (&Reader{from: from, rec: rec}).readPages()
	if err != nil {
		return nil, err
	}
	n := slices.Index(m.images, of)
	return slices.DeleteFunc(m.frames, func(f frame) bool { return int(f.image) != n }), nil
}
