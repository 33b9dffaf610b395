package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
)

// crash makes whoever changes a store die before each of its operations in turn: every image is whole or gone, the head
// is one of them, and the next one carries on.
func crash(t *testing.T, open func(t *testing.T) image.Store) {
	for name, do := range map[string]func(im image.Images) error{
		"write":  func(im image.Images) error { return ignore(write(im, 3, image.WriteOptions{})) },
		"grow":   func(im image.Images) error { return ignore(grow(im, 4, image.WriteOptions{Parent: parentOf(im)})) },
		"remove": func(im image.Images) error { _, err := im.Remove("a"); return err },
		"prune":  func(im image.Images) error { _, err := im.Prune(image.PruneOptions{Names: true}); return err },
		"squash": func(im image.Images) error {
			_, _, err := im.Squash(context.Background(), "b", image.SquashOptions{Chain: true, Workers: 1})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			for steps := 0; ; steps++ {
				s := open(t)
				im := image.In(s)
				a, err := write(im, 1, image.WriteOptions{Name: "a"})
				must(t, a, err)
				must(t, a, ignore(grow(im, 2, image.WriteOptions{Parent: a.ID, Name: "b"})))
				err = do(image.In(&crashing{s, steps}))
				whole(t, im)
				must(t, a, ignore(write(im, 5, image.WriteOptions{})))
				is(t, im, "", 5, heap(5))
				whole(t, im)
				if err == nil {
					t.Logf("%d operations", steps)
					if steps == 0 {
						t.Error("nothing was done that could have been cut short")
					}
					return
				}
				if !errors.Is(err, errCrash) {
					t.Fatalf("before operation %d: %v", steps, err)
				}
			}
		})
	}
}

// parentOf is the id of image b.
func parentOf(im image.Images) string {
	infos, _ := im.List()
	for i := range infos {
		if infos[i].Name == "b" {
			return infos[i].ID
		}
	}
	return ""
}

// whole checks every image of a store, and that its head is one.
func whole(t *testing.T, im image.Images) {
	t.Helper()
	infos, err := im.List()
	if err != nil || len(infos) == 0 {
		t.Fatalf("%d images, %v", len(infos), err)
	}
	contents := map[string][]byte{"1": heap(1), "3": heap(3), "5": heap(5)}
	contents["2"] = grown(2, heap(1))
	contents["4"] = grown(4, contents["2"])
	for _, name := range append([]string{""}, idsOf(infos)...) {
		r, err := im.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		n := r.State().Processes[0].Args[0]
		var number int
		_, _ = fmt.Sscan(n, &number)
		check(t, r, number, contents[n])
		_ = r.Close()
	}
}

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
