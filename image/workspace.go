package image

import "github.com/bpfckpt/bpfckpt/internal/fault"

// workspace is the place in a store where one image is written.
type workspace struct {
	images Images
	store  string // its name
	id     string // of the image
	draft  Draft
}

// newWorkspace begins a new image, in a store that is made if there is none.
func (im Images) newWorkspace(o *WriteOptions) (*workspace, error) {
	name := im.store.Name()
	l, err := im.store.Lock(true)
	if err != nil {
		return nil, writeFault(name, err)
	}
	defer l.Unlock()
	d, err := im.begin(l, o)
	if err != nil {
		l.Unmake()
		return nil, writeFault(name, err)
	}
	return &workspace{images: im, store: name, id: d.ID(), draft: d}, nil
}

// begin checks the options against the store and begins a new image.
func (im Images) begin(l Locked, o *WriteOptions) (Draft, error) {
	if err := im.checkName(o.Name, ""); err != nil {
		return nil, err
	}
	if o.Parent != "" && isID(o.Parent) && !im.isImage(o.Parent) {
		o.Parent = im.successor(o.Parent) // it may have been squashed
	}
	if o.Parent != "" && (!isID(o.Parent) || !im.isImage(o.Parent)) {
		return nil, fault.New(fault.StoreNoImage, im.store.Name(), "the parent %q is not in it", o.Parent)
	}
	return l.Begin(o.Parent)
}

// publish makes the finished image, and the head that points to it, visible. The name is checked again: another image
// may have taken it meanwhile.
//
// An image that replaces another one becomes the head only if that one is; from then on the other one does not count.
func (w *workspace) publish(name string, replaced *Info) error {
	l, err := w.images.store.Lock(false)
	if err != nil {
		return err
	}
	defer l.Unlock()
	but, head := "", true
	if replaced != nil {
		but = replaced.ID
		id, err := w.images.Head()
		head = err == nil && id == replaced.ID
	}
	if err := w.images.checkName(name, but); err != nil {
		return err
	}
	return l.Publish(w.draft, head)
}
