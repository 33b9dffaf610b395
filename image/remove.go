package image

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Removal tells what Remove and Prune did.
type Removal struct {
	Removed []string // ids of the images that are gone, oldest first
	Lent    []string // ids of gone images, of this call and of earlier ones, whose data others still need
	Kept    int      // images that are left
	Freed   int64    // bytes of disk
	Head    string   // id of the head now, "" if there is no image left
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

// Remove removes images from a store by their names, ids or beginnings of ids. The data of one that others borrow from
// stays until the last of those goes. If it was the head, the nearest ancestor that is left becomes the head, or else
// the newest image. Each image goes by one rename: whenever this is killed, every image is whole or gone, and the next
// call takes away what is left over.
func Remove(dir string, names ...string) (Removal, error) {
	return change(dir, func() ([]string, error) {
		var ids []string
		pinned := pins(dir)
		for _, name := range names {
			id, err := find(dir, name)
			if err != nil {
				return nil, err
			}
			if slices.Contains(pinned, id) {
				return nil, fault.New(fault.StorePinned, dir+"@"+name, "an image that continues it is being written")
			}
			ids = append(ids, id)
		}
		slices.Sort(ids)
		return slices.Compact(ids), nil
	})
}

// Prune removes all but the newest images. An image that another one being written continues stays this time.
func Prune(dir string, o PruneOptions) (Removal, error) {
	if o.Keep < 0 {
		return Removal{}, fault.New(fault.StoreOption, dir, "%d images cannot be kept", o.Keep)
	}
	choose := func() ([]string, error) {
		infos, err := List(dir)
		if err != nil && len(infos) == 0 {
			return nil, err
		}
		head, err := Head(dir)
		if err != nil {
			return nil, err
		}
		pinned := pins(dir)
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
	return change(dir, choose)
}

// change removes the images that choose names from a store, whose lock it holds meanwhile, and collects what is not
// needed any more.
func change(dir string, choose func() ([]string, error)) (Removal, error) {
	if err := checkMark(dir); err != nil {
		return Removal{}, err
	}
	mark, err := lockStore(dir)
	if err != nil {
		return Removal{}, writeFault(dir, err)
	}
	defer func() { _ = mark.Close() }()
	if err := finishReplacing(dir); err != nil {
		return Removal{}, writeFault(dir, err)
	}
	ids, err := choose()
	if err != nil {
		return Removal{}, err
	}
	if err := moveHead(dir, ids); err != nil {
		return Removal{}, writeFault(dir, err)
	}
	for _, id := range ids {
		if err := retire(dir, id); err != nil {
			return Removal{}, writeFault(dir, err)
		}
	}
	res, err := collect(dir)
	slices.Reverse(ids)
	res.Removed = ids
	res.Head, _ = Head(dir) // none if there is no image left
	return res, writeFaultOrNil(dir, err)
}

func writeFaultOrNil(path string, err error) error {
	if err == nil {
		return nil
	}
	return writeFault(path, err)
}

// pins are the ids of images that writers at work continue; the store is locked.
func pins(store string) []string {
	var out []string
	locks, _ := filepath.Glob(filepath.Join(globEscape(store), tmpDir, "*.lock"))
	for _, path := range locks {
		b, err := readSmall(path, idDigits)
		if err != nil || !isID(string(b)) {
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if dead, err := tryLock(f); !dead && err == nil {
			out = append(out, string(b))
		}
		_ = f.Close()
	}
	return out
}

// globEscape quotes what filepath.Glob takes for patterns.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// moveHead makes another image the head if the head is among those that are to go; the store is locked.
func moveHead(store string, ids []string) error {
	head, err := Head(store)
	if errors.Is(err, &fault.Error{Code: fault.StoreNotFound}) {
		return nil
	}
	if err == nil && !slices.Contains(ids, head) {
		return nil
	}
	if err != nil && len(ids) == 0 {
		return nil // not what we are here for
	}
	infos, _, err := scan(store)
	if err != nil {
		return err
	}
	infos = slices.DeleteFunc(infos, func(i Info) bool { return slices.Contains(ids, i.ID) })
	if len(infos) == 0 { // a store without a head is one with a single image, until that goes too
		err := os.Remove(filepath.Join(store, headFile))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return errors.Join(err, syncDir(store))
	}
	f := newForest(store, infos)
	next := f.base(f.ancestor(head))
	if next == "" {
		next = slices.MaxFunc(infos, func(a,
			b Info,
		) int {
			return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID))
		}).ID
	}
	return writeHead(store, next)
}

// ancestor returns the nearest ancestor of an image that is about to go, be it live, about to go too, or a tombstone.
func (f *forest) ancestor(id string) string {
	for range maxImages {
		rec, err := readInfo(filepath.Join(f.dir, imagesDir, id), id)
		if err != nil {
			return ""
		}
		if id = rec.Parent; !isImage(f.dir, id) || f.live[id] != nil {
			return id
		}
	}
	return ""
}

// writeHead makes an image the head; the store is locked.
func writeHead(store, id string) error {
	next := filepath.Join(store, tmpDir, headFile+"."+id)
	_ = os.Remove(next) // of someone who was killed here
	err := writeFile(next, headBytes(id))
	if err == nil {
		err = os.Rename(next, filepath.Join(store, headFile))
	}
	if err != nil {
		_ = os.Remove(next)
		return err
	}
	return syncDir(store)
}

// retire makes an image a tombstone; the store is locked. The rename is durable before anything else of the image goes.
func retire(store, id string) error {
	dir := filepath.Join(store, imagesDir, id)
	err := os.Rename(filepath.Join(dir, fileNames[kindInfo]), filepath.Join(dir, removedFile))
	if errors.Is(err, fs.ErrNotExist) { // a damaged image
		if err = writeFile(filepath.Join(dir, removedFile)); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// finishReplacing completes what a squash that was killed has left: the replaced image goes. The store is locked.
func finishReplacing(store string) error {
	infos, _, err := scan(store)
	if err != nil {
		return err
	}
	pinned := pins(store)
	for i := range infos {
		for _, old := range infos[i].Replaces {
			if !isImage(store, old) || slices.Contains(pinned, old) {
				continue
			}
			if head, err := Head(store); err == nil && head == old {
				if err := writeHead(store, infos[i].ID); err != nil {
					return err
				}
			}
			if err := retire(store, old); err != nil {
				return err
			}
		}
	}
	return nil
}

// collect removes of the tombstones what no image needs; the store is locked.
func collect(store string) (Removal, error) {
	var res Removal
	ids, err := tombstones(store)
	if err != nil {
		return res, err
	}
	infos, broken, err := scan(store)
	if err != nil {
		return res, err
	}
	res.Kept = len(infos)
	for _, err := range broken {
		res.Doubt = errors.Join(res.Doubt, err)
	}
	needed := map[string]bool{}
	for i := range infos {
		for _, id := range infos[i].Lenders {
			needed[id] = true
		}
	}
	for _, i := range replacedImages(store, infos) { // still whole, and still borrowing
		for _, id := range i.Lenders {
			needed[id] = true
		}
	}
	for _, id := range ids {
		dir := filepath.Join(store, imagesDir, id)
		before := diskUse(dir)
		switch {
		case needed[id] || res.Doubt != nil:
			res.Lent = append(res.Lent, id)
			err = shrink(store, id, infos, res.Doubt == nil)
		default:
			err = drop(store, id)
		}
		if err != nil {
			return res, err
		}
		res.Freed += before - diskUse(dir)
	}
	return res, nil
}

// replacedImages are images that a squash has replaced but that could not go yet.
func replacedImages(store string, infos []Info) []Info {
	var out []Info
	for i := range infos {
		for _, old := range infos[i].Replaces {
			if rec, err := readInfo(filepath.Join(store, imagesDir, old), old); err == nil {
				out = append(out, rec.info(store))
			}
		}
	}
	return out
}

// drop removes the rest of a tombstone. First it leaves the place where images are looked for, whole.
func drop(store, id string) error {
	tmp := filepath.Join(store, tmpDir, id)
	if err := os.Rename(filepath.Join(store, imagesDir, id), tmp); err != nil {
		return err
	}
	if err := syncDir(filepath.Join(store, imagesDir)); err != nil {
		return err
	}
	return os.RemoveAll(tmp)
}

// shrink removes of a tombstone what borrowers do not need: its state, its page map, and with sure the frames that no map
// names.
func shrink(store, id string, infos []Info, sure bool) error {
	dir := filepath.Join(store, imagesDir, id)
	for _, kind := range []fileKind{kindState, kindPages} {
		if err := os.Remove(filepath.Join(dir, fileNames[kind])); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if !sure {
		return nil
	}
	var used []frame
	for _, i := range append(replacedImages(store, infos), infos...) {
		if !slices.Contains(i.Lenders, id) {
			continue
		}
		frames, err := framesIn(store, i.ID, id)
		if err != nil {
			return nil // a damaged map: leave everything as it is
		}
		used = append(used, frames...)
	}
	return punch(filepath.Join(dir, fileNames[kindData]), used)
}

// framesIn returns the frames of a lender that an image's page map names.
func framesIn(store, id, lender string) ([]frame, error) {
	dir := filepath.Join(store, imagesDir, id)
	rec, err := readInfo(dir, id)
	if err != nil {
		return nil, err
	}
	m, err := (&Reader{dir: dir, rec: rec}).readPages()
	if err != nil {
		return nil, err
	}
	n := slices.Index(m.images, lender)
	return slices.DeleteFunc(m.frames, func(f frame) bool { return int(f.image) != n }), nil
}

// punch gives the disk blocks of a data file back that hold none of the frames. Readers of a removed image may still
// have the file open; then it is left for another time.
func punch(path string, used []frame) error {
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
	slices.SortFunc(used, func(a, b frame) int { return cmp.Compare(a.offset, b.offset) })
	at := uint64(dataStart)
	for _, u := range append(used, frame{offset: uint64(fi.Size())}) {
		from, to := alignUp(at), u.offset&^(PageSize-1)
		if from < to {
			makeHole(f, int64(from), int64(to-from))
		}
		at = max(at, u.end())
	}
	return nil
}

// diskUse is how many bytes of disk the files of a directory take.
func diskUse(dir string) int64 {
	entries, err := os.ReadDir(dir)
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
