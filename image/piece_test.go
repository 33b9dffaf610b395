package image_test

import (
	"context"
	"maps"
	"sync"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

// What PiecesIn and a FrameReader give of some parts of a space, frames in any order, and what LoadParts gives, is what
// Load gives of these pages.
func TestParts(t *testing.T) {
	info := save(t, t.TempDir(), image.WriteOptions{Level: image.LevelFast}, pattern(1, 250))
	r := open(t, info.Dir+"@"+info.ID)
	all, err := load(r, imagetest.Memory, 1)
	if err != nil {
		t.Fatal(err)
	}
	at := func(n uint64) uint64 { return imagetest.HeapAddr + n*page }
	parts := []model.Range{
		{Start: 0, End: at(3)},
		{Start: at(5), End: at(6)},
		{Start: at(100), End: at(180)},
		{Start: at(240), End: at(9000)},
	}
	want := content{}
	for addr, p := range all {
		for _, part := range parts {
			if p != "" && addr >= part.Start && addr < part.End {
				want[addr] = p
			}
		}
	}
	loaded := content{}
	var mu sync.Mutex
	err = r.LoadParts(context.Background(), imagetest.Memory, parts, 2, func(addr uint64, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		for i := 0; i < len(data); i += page {
			loaded[addr+uint64(i)] = string(data[i : i+page])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	pieces := content{}
	list := r.PiecesIn(imagetest.Memory, parts)
	f := r.Frames()
	defer f.Close()
	for i := range list {
		p := &list[len(list)-1-i]
		frame, err := f.Read(p.Frame)
		if err != nil {
			t.Fatal(err)
		}
		for n := range uint64(p.Pages) {
			from := (uint64(p.Off) + n) * page
			pieces[p.Addr+n*page] = string(frame[from : from+page])
		}
		if i > 0 && p.End() > list[len(list)-i].Addr {
			t.Error("the pieces are not ascending")
		}
	}
	if !maps.Equal(loaded, want) || !maps.Equal(pieces, want) {
		t.Errorf("LoadParts has %d pages, the pieces %d, want %d", len(loaded), len(pieces), len(want))
	}
}
