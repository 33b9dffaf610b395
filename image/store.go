package image

import "io"

// Store is a place that holds images, and nothing but that: which image a name means, what may be removed, and how an
// image is put together is the same for every store (Images). A Store is safe for concurrent use, also by several
// processes if the store can be reached by several. Errors that are no faults are made E_STORE_* faults by the caller.
//
// internal/storetest has the tests that every store must pass.
type Store interface {
	// Name is what the store is called in messages and in Info: NAME@ID is an image.
	Name() string
	// Check tells whether there is a store, and one of this format. E_STORE_NOT_FOUND means that nothing is there.
	Check() error
	// IDs lists the published images, in no order, and the removed ones of which something is left (PartRemoved).
	IDs() ([]string, error)
	// Has reports whether an image has a part, whole or not.
	Has(id string, p Part) bool
	// Open opens a part of a published image. What was opened stays readable when the image is removed. The faults are
	// E_IMAGE_*, for a part that is not there E_IMAGE_MISSING.
	Open(id string, p Part) (PartFile, error)
	// Head is the id of the image that the store's name alone means, "" if there is none.
	Head() (string, error)
	// Pinned lists the ids that Locked.Begin was given for drafts whose writers live.
	Pinned() []string
	// Lock takes the store's lock, which is held for a few operations only; E_STORE_BUSY if that takes long. It makes
	// the store if there is none and create is set.
	Lock(create bool) (Locked, error)
}

// Locked is a store whose lock is held. Each of its operations is atomic: whoever dies in it, a reader sees what was
// before or what is after, and so does who takes the lock next.
type Locked interface {
	// Begin begins an image under a new id, which nobody sees. pinned is the id of an image that is needed until it is
	// published or discarded, "" for none. What drafts of the dead have left is removed.
	Begin(pinned string) (Draft, error)
	// Publish makes a draft an image, durably, and the head if that is asked for.
	Publish(d Draft, head bool) error
	// SetHead makes an image the head, durably; "" means that there is none.
	SetHead(id string) error
	// Retire makes an image a removed one, durably: its PartInfo becomes PartRemoved.
	Retire(id string) error
	// Shrink gives up what is not needed of a removed image: everything but PartRemoved and PartData, and of the latter
	// what lies in none of the extents; with used nil all of it stays. What readers have open it may leave.
	Shrink(id string, used []Extent) error
	// Drop removes what is left of a removed image.
	Drop(id string) error
	// Size is how many bytes an image takes.
	Size(id string) int64
	// Unmake takes back that Lock has made the store, if it has and the store is empty.
	Unmake()
	// Unlock releases the lock; the Locked must not be used any more.
	Unlock()
}

// Draft is an image being written. It ends with Publish or Discard; when its writer dies nothing of it is ever seen.
type Draft interface {
	ID() string
	// Create makes a part, once.
	Create(p Part) (DraftFile, error)
	// Open opens a part that was created.
	Open(p Part) (PartFile, error)
	// Sync makes durable that the parts are there; their content is made so by DraftFile.Sync.
	Sync() error
	// Discard removes the draft. The store must not be locked by the caller.
	Discard()
}

// Part is one of the parts of an image, by its name.
type Part string

// The parts of an image. One that is removed has PartRemoved instead of PartInfo.
const (
	PartInfo    Part = "info"
	PartState   Part = "state"
	PartPages   Part = "pages"
	PartData    Part = "data"
	PartRemoved Part = "removed"
)

// PartFile is an open part of an image. It is safe for concurrent use.
type PartFile interface {
	io.ReaderAt
	io.Closer
	Name() string // for messages: where it is
	Size() int64  // bytes
}

// DraftFile is a part that is being written.
type DraftFile interface {
	io.Writer
	io.WriterAt
	io.Closer
	Sync() error // returns when what was written is durable
}

// Extent is bytes of a part.
type Extent struct{ Offset, Length uint64 }

// Images is the images of a store.
type Images struct{ store Store }

// In returns the images of a store.
func In(s Store) Images { return Images{s} }

// source is where the parts of one image are: in a store, or in a draft.
type source interface {
	Open(p Part) (PartFile, error)
}

// published is an image of a store as a source.
type published struct {
	store Store
	id    string
}

func (p published) Open(part Part) (PartFile, error) { return p.store.Open(p.id, part) }
