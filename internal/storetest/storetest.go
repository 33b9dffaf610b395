// Package storetest has the tests that every store of images must pass, and a store in memory that passes them.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
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

// ignore drops an info.
func ignore(_ image.Info, err error) error { return err }

func idsOf(infos []image.Info) []string {
	ids := make([]string, len(infos))
	for i := range infos {
		ids[i] = infos[i].ID
	}
	return ids
}
