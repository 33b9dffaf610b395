package storetest

import (
	"sync"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
)

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
