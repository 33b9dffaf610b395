// Package storetest has the tests that every store of images must pass, and a store in memory that passes them.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

// Run tests stores. open returns a new one, which is not made yet.
func Run(t *testing.T, open func(t *testing.T) image.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s image.Store)
	}{
		{"Empty", empty},
		{"RoundTrip", roundTrip},
		{"SeenWhenPublished", seenWhenPublished},
		{"AbortLeavesNothing", abortLeavesNothing},
		{"Names", names},
		{"Order", order},
		{"Head", head},
		{"LockIsExclusive", lockIsExclusive},
		{"ParentsStay", parentsStay},
		{"PinnedWhileContinued", pinned},
		{"OpenOutlivesRemoval", openOutlivesRemoval},
		{"Squash", squash},
		{"MissingPiecesAreNamed", missing},
		{"AtOnce", atOnce},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
	t.Run("Crash", func(t *testing.T) { crash(t, open) })
}

// pages of the heap that images of the tests have.
const pages = 16

// heap is the content of one image: its pages differ from each other and from those of other numbers.
func heap(n int) []byte {
	b := make([]byte, pages*model.PageSize)
	for i := range pages {
		copy(b[i*model.PageSize:], fmt.Sprintf("image %d, page %d", n, i))
	}
	return b
}

// state is that of an image: it has the number in its arguments.
func state(n int) *model.State {
	st := imagetest.State()
	p := &st.Processes[0]
	p.Start, p.Args = 4711, []string{fmt.Sprint(n)}
	return st
}

// write writes an image whole.
func write(im image.Images, n int, o image.WriteOptions) (image.Info, error) {
	o.Workers = 1
	w, err := im.Create(o)
	if err != nil {
		return image.Info{}, err
	}
	defer w.Abort()
	if err := w.Write(imagetest.Memory, imagetest.HeapAddr, heap(n)); err != nil {
		return image.Info{}, err
	}
	return w.Commit(state(n))
}

// grow writes an image that has but its first page from its parent.
func grow(im image.Images, n int, o image.WriteOptions) (image.Info, error) {
	o.Workers = 1
	w, err := im.Create(o)
	if err != nil {
		return image.Info{}, err
	}
	defer w.Abort()
	if err := errors.Join(w.Keep(imagetest.Memory, imagetest.HeapAddr, pages),
		w.Write(imagetest.Memory, imagetest.HeapAddr, heap(n)[:model.PageSize])); err != nil {
		return image.Info{}, err
	}
	return w.Commit(state(n))
}

func must(t *testing.T, info image.Info, err error) image.Info {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// is checks that a name means an image that is whole and has these pages.
func is(t *testing.T, im image.Images, name string, n int, want []byte) {
	t.Helper()
	r, err := im.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	check(t, r, n, want)
}

func check(t *testing.T, r *image.Reader, n int, want []byte) {
	t.Helper()
	if got := r.State().Processes[0].Args[0]; got != fmt.Sprint(n) {
		t.Errorf("it is image %s, not %d", got, n)
	}
	got := make([]byte, pages*model.PageSize)
	if err := r.Load(context.Background(), imagetest.Memory, 1, func(addr uint64, data []byte) error {
		copy(got[addr-imagetest.HeapAddr:], data)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("image %d has other pages", n)
	}
}

// grown is the pages of an image made by grow.
func grown(n int, parent []byte) []byte {
	b := slices.Clone(parent)
	copy(b, heap(n)[:model.PageSize])
	return b
}

func wantCode(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if !errors.Is(err, &fault.Error{Code: code}) {
		t.Errorf("%v, want %s", err, code)
	}
}

func empty(t *testing.T, s image.Store) {
	im := image.In(s)
	wantCode(t, s.Check(), fault.StoreNotFound)
	_, err := im.List()
	wantCode(t, err, fault.StoreNotFound)
	_, err = im.Open("")
	wantCode(t, err, fault.StoreNotFound)
	_, err = im.Open("name")
	wantCode(t, err, fault.StoreNotFound)
	_, err = im.Remove("name")
	wantCode(t, err, fault.StoreNotFound)
	if id, same, err := im.ParentOf(image.Origin{}); id != "" || same || err != nil {
		t.Errorf("the parent is %q, %v, %v", id, same, err)
	}
	if s.Has("0123456789ab", image.PartInfo) {
		t.Error("it has an image")
	}
	if ids, err := s.IDs(); len(ids) > 0 || err != nil {
		t.Errorf("it has %q, %v", ids, err)
	}
}

func roundTrip(t *testing.T, s image.Store) {
	im := image.In(s)
	for i, level := range image.Levels() {
		info, err := write(im, i, image.WriteOptions{Level: level})
		must(t, info, err)
		is(t, im, info.ID, i, heap(i))
		r, err := im.Open("")
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Verify(t.Context(), nil); err != nil || r.Info().ID != info.ID || r.Info().Dir != s.Name() {
			t.Errorf("the head is %+v, %v", r.Info(), err)
		}
		_ = r.Close()
	}
}

func seenWhenPublished(t *testing.T, s image.Store) {
	im := image.In(s)
	first, err := write(im, 1, image.WriteOptions{})
	must(t, first, err)
	w, err := im.Create(image.WriteOptions{Name: "second"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := w.Write(imagetest.Memory, imagetest.HeapAddr, heap(2)); err != nil {
		t.Fatal(err)
	}
	if infos, err := im.List(); err != nil || len(infos) != 1 {
		t.Errorf("%d images while one is written, %v", len(infos), err)
	}
	_, err = im.Open("second")
	wantCode(t, err, fault.StoreNoImage)
	is(t, im, "", 1, heap(1))
	if _, err := w.Commit(state(2)); err != nil {
		t.Fatal(err)
	}
	is(t, im, "", 2, heap(2))
	is(t, im, "second", 2, heap(2))
}

func abortLeavesNothing(t *testing.T, s image.Store) {
	im := image.In(s)
	a, err := im.Create(image.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a.Abort()
	wantCode(t, s.Check(), fault.StoreNotFound)
	info, err := write(im, 1, image.WriteOptions{})
	must(t, info, err)
	if _, err := im.Create(image.WriteOptions{Parent: "0123456789ab"}); err == nil {
		t.Error("an image continues one that is not there")
	}
	c, err := im.Create(image.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Abort()
	is(t, im, "", 1, heap(1))
	if ids, err := s.IDs(); err != nil || len(ids) != 1 {
		t.Errorf("left: %q, %v", ids, err)
	}
}

func names(t *testing.T, s image.Store) {
	im := image.In(s)
	a, err := write(im, 1, image.WriteOptions{Name: "a"})
	must(t, a, err)
	must(t, a, ignore(write(im, 2, image.WriteOptions{Name: "b.1_x-y"})))
	for _, name := range []string{"a", a.ID, a.ID[:11]} {
		is(t, im, name, 1, heap(1))
	}
	_, err = write(im, 3, image.WriteOptions{Name: "a"})
	wantCode(t, err, fault.StoreName)
	_, err = write(im, 3, image.WriteOptions{Name: "../a"})
	wantCode(t, err, fault.StoreOption)
	_, err = im.Open("nobody")
	wantCode(t, err, fault.StoreNoImage)
	w, err := im.Create(image.WriteOptions{Name: "c"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	must(t, a, ignore(write(im, 4, image.WriteOptions{Name: "c"})))
	_, err = w.Commit(state(5)) // taken meanwhile
	wantCode(t, err, fault.StoreName)
	is(t, im, "c", 4, heap(4))
}

// ignore drops an info.
func ignore(_ image.Info, err error) error { return err }

func order(t *testing.T, s image.Store) {
	im := image.In(s)
	var want []string
	for i := range 6 {
		info, err := write(im, i, image.WriteOptions{})
		want = append(want, must(t, info, err).ID)
	}
	infos, err := im.List()
	var got []string
	for i := range infos {
		got = append(got, infos[i].ID)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, want %q, %v", got, want, err)
	}
}

func head(t *testing.T, s image.Store) {
	im := image.In(s)
	var infos []image.Info
	for i := range 3 {
		info, err := write(im, i, image.WriteOptions{})
		infos = append(infos, must(t, info, err))
	}
	l, err := s.Lock(false)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	for _, id := range []string{infos[0].ID, "", infos[1].ID} {
		if err := l.SetHead(id); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Head(); got != id || err != nil {
			t.Errorf("the head is %q, %v, want %q", got, err, id)
		}
	}
	is(t, im, "", 1, heap(1))
	if err := l.SetHead(""); err != nil {
		t.Fatal(err)
	}
	_, err = im.Open("")
	wantCode(t, err, fault.StoreAmbiguous)
}

func lockIsExclusive(t *testing.T, s image.Store) {
	must(t, image.Info{}, ignore(write(image.In(s), 1, image.WriteOptions{})))
	var wg sync.WaitGroup
	inside := 0
	for range 4 {
		wg.Go(func() {
			for range 20 {
				l, err := s.Lock(false)
				if err != nil {
					t.Error(err)
					return
				}
				if inside++; inside != 1 { // the lock guards it
					t.Errorf("%d have the lock", inside)
				}
				inside--
				l.Unlock()
			}
		})
	}
	wg.Wait()
}

func parentsStay(t *testing.T, s image.Store) {
	im := image.In(s)
	a, err := write(im, 1, image.WriteOptions{Name: "a"})
	must(t, a, err)
	b, err := grow(im, 2, image.WriteOptions{Parent: a.ID})
	must(t, b, err)
	if !slices.Equal(b.Lenders, []string{a.ID}) || b.Parent != a.ID {
		t.Fatalf("it is %+v", b)
	}
	res, err := im.Remove("a")
	if err != nil || !slices.Equal(res.Lent, []string{a.ID}) || res.Kept != 1 || res.Head != b.ID {
		t.Errorf("%+v, %v", res, err)
	}
	_, err = im.Open("a")
	wantCode(t, err, fault.StoreNoImage)
	is(t, im, "", 2, grown(2, heap(1)))
	if s.Has(a.ID, image.PartInfo) || s.Has(a.ID, image.PartState) || !s.Has(a.ID, image.PartData) {
		t.Error("of what was removed there is not what others need")
	}
	res, err = im.Remove(b.ID)
	if err != nil || len(res.Lent) != 0 || res.Kept != 0 || res.Head != "" || res.Freed <= 0 {
		t.Errorf("%+v, %v", res, err)
	}
	if ids, err := s.IDs(); err != nil || len(ids) != 0 {
		t.Errorf("left: %q, %v", ids, err)
	}
}

func pinned(t *testing.T, s image.Store) {
	im := image.In(s)
	a, err := write(im, 1, image.WriteOptions{})
	must(t, a, err)
	w, err := im.Create(image.WriteOptions{Parent: a.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if got := s.Pinned(); !slices.Equal(got, []string{a.ID}) {
		t.Errorf("pinned: %q", got)
	}
	_, err = im.Remove(a.ID)
	wantCode(t, err, fault.StorePinned)
	if err := w.Keep(imagetest.Memory, imagetest.HeapAddr, pages); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(state(2)); err != nil {
		t.Fatal(err)
	}
	if got := s.Pinned(); len(got) != 0 {
		t.Errorf("pinned: %q", got)
	}
	if _, err := im.Remove(a.ID); err != nil {
		t.Error(err)
	}
	is(t, im, "", 2, heap(1))
}

func openOutlivesRemoval(t *testing.T, s image.Store) {
	im := image.In(s)
	must(t, image.Info{}, ignore(write(im, 1, image.WriteOptions{Name: "a"})))
	must(t, image.Info{}, ignore(write(im, 2, image.WriteOptions{})))
	r, err := im.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, err := im.Remove("a"); err != nil {
		t.Fatal(err)
	}
	check(t, r, 1, heap(1))
}

func squash(t *testing.T, s image.Store) {
	im := image.In(s)
	a, err := write(im, 1, image.WriteOptions{})
	must(t, a, err)
	b, err := grow(im, 2, image.WriteOptions{Parent: a.ID, Name: "b"})
	must(t, b, err)
	c, _, err := im.Squash(t.Context(), "b", image.SquashOptions{Chain: true, Workers: 1})
	if err != nil || c.ID == b.ID || len(c.Lenders) != 0 || !slices.Contains(c.Replaces, b.ID) {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, name := range []string{"b", b.ID, ""} {
		is(t, im, name, 2, grown(2, heap(1)))
	}
	if ids, err := s.IDs(); err != nil || !slices.Equal(ids, []string{c.ID}) {
		t.Errorf("left: %q, %v", ids, err)
	}
}

func missing(t *testing.T, s image.Store) {
	im := image.In(s)
	a, err := write(im, 1, image.WriteOptions{})
	must(t, a, err)
	b, err := grow(im, 2, image.WriteOptions{Parent: a.ID})
	must(t, b, err)
	_, err = s.Open("0123456789ab", image.PartInfo)
	wantCode(t, err, fault.ImageMissing)
	_, err = s.Open(a.ID, image.PartRemoved)
	wantCode(t, err, fault.ImageMissing)
	l, err := s.Lock(false)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	if err := errors.Join(l.Retire(a.ID), l.Drop(a.ID)); err != nil { // as no caller does
		t.Fatal(err)
	}
	_, err = im.Open(b.ID)
	wantCode(t, err, fault.ImageMissing)
	if err == nil || !strings.Contains(err.Error(), a.ID) || !strings.Contains(err.Error(), string(image.PartData)) {
		t.Errorf("%v does not name what is missing", err)
	}
}

func atOnce(t *testing.T, s image.Store) {
	im := image.In(s)
	must(t, image.Info{}, ignore(write(im, 0, image.WriteOptions{Name: "stays"})))
	var writers, readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if infos, err := im.List(); err != nil || len(infos) == 0 {
					t.Errorf("%d images, %v", len(infos), err)
				}
				is(t, im, "stays", 0, heap(0))
			}
		})
	}
	for i := 1; i <= 4; i++ {
		writers.Go(func() {
			for range 4 {
				info, err := write(im, i, image.WriteOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				is(t, im, info.ID, i, heap(i))
				if i%2 == 0 {
					if _, err := im.Remove(info.ID); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	if infos, err := im.List(); err != nil || len(infos) != 1+2*4 {
		t.Errorf("%d images, %v", len(infos), err)
	}
}

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

func idsOf(infos []image.Info) []string {
	ids := make([]string, len(infos))
	for i := range infos {
		ids[i] = infos[i].ID
	}
	return ids
}
