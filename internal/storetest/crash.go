package storetest

import (
	"errors"

	"github.com/bpfckpt/bpfckpt/image"
)

// errCrash is what every operation returns from the crash on.
var errCrash = errors.New("the process is dead")

// crashing is a store whose user dies before its operation number left+1 that changes something: from then on nothing
// it does has an effect. Only its locks are free again, as those of the dead are.
type crashing struct {
	image.Store
	left int
}

// dead counts an operation.
func (c *crashing) dead() bool {
	if c.left <= 0 {
		return true
	}
	c.left--
	return false
}

func (c *crashing) Lock(create bool) (image.Locked, error) {
	if c.dead() {
		return nil, errCrash
	}
	l, err := c.Store.Lock(create)
	if err != nil {
		return nil, err
	}
	return &crashingLock{l, c}, nil
}

type crashingLock struct {
	image.Locked
	c *crashing
}

// do does an operation if its user lives.
func (l *crashingLock) do(op func() error) error {
	if l.c.dead() {
		return errCrash
	}
	return op()
}

func (l *crashingLock) Begin(pinned string) (image.Draft, error) {
	if l.c.dead() {
		return nil, errCrash
	}
	d, err := l.Locked.Begin(pinned)
	if err != nil {
		return nil, err
	}
	return &crashingDraft{d, l.c}, nil
}

func (l *crashingLock) Publish(d image.Draft, head bool) error {
	return l.do(func() error { return l.Locked.Publish(d.(*crashingDraft).Draft, head) })
}

func (l *crashingLock) SetHead(id string) error {
	return l.do(func() error { return l.Locked.SetHead(id) })
}

func (l *crashingLock) Retire(id string) error {
	return l.do(func() error { return l.Locked.Retire(id) })
}

func (l *crashingLock) Shrink(id string, used []image.Extent) error {
	return l.do(func() error { return l.Locked.Shrink(id, used) })
}

func (l *crashingLock) Drop(id string) error { return l.do(func() error { return l.Locked.Drop(id) }) }

func (l *crashingLock) Unmake() { _ = l.do(func() error { l.Locked.Unmake(); return nil }) }

type crashingDraft struct {
	image.Draft
	c *crashing
}

func (d *crashingDraft) Create(p image.Part) (image.DraftFile, error) {
	if d.c.dead() {
		return nil, errCrash
	}
	return d.Draft.Create(p)
}

func (d *crashingDraft) Sync() error {
	if d.c.dead() {
		return errCrash
	}
	return d.Draft.Sync()
}

func (d *crashingDraft) Discard() {
	if !d.c.dead() {
		d.Draft.Discard()
	}
}
