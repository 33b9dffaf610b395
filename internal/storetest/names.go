package storetest

import (
	"slices"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

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
