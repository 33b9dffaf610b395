package storetest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
)

func parentsStay(t *testing.T, s image.Store) {
	im := image.In(s)
	a, err := write(im, 1, image.WriteOptions{Name: "a"})
	must(t, a, err)
	b, err := grow(im, 2, image.WriteOptions{Parent: a.ID})
	must(t, b, err)
	if !slices.Equal(b.Referenced, []string{a.ID}) || b.Parent != a.ID {
		t.Fatalf("it is %+v", b)
	}
	res, err := im.Remove("a")
	if err != nil || !slices.Equal(res.Referenced, []string{a.ID}) || res.Kept != 1 || res.Head != b.ID {
		t.Errorf("%+v, %v", res, err)
	}
	_, err = im.Open("a")
	wantCode(t, err, fault.StoreNoImage)
	is(t, im, "", 2, grown(2, heap(1)))
	if s.Has(a.ID, image.PartInfo) || s.Has(a.ID, image.PartState) || !s.Has(a.ID, image.PartData) {
		t.Error("of what was removed there is not what others need")
	}
	res, err = im.Remove(b.ID)
	if err != nil || len(res.Referenced) != 0 || res.Kept != 0 || res.Head != "" || res.Freed <= 0 {
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
	if err != nil || c.ID == b.ID || len(c.Referenced) != 0 || !slices.Contains(c.Replaces, b.ID) {
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
