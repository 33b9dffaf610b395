package lazy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/model"
)

const mib = 1 << 20

// sample is a memory with areas at 1 MiB and at 4 MiB, of 1 MiB each, in which every page has content.
func sample() *memory {
	var pieces []image.Piece
	for frame, at := range []uint64{mib, mib + mib/2, 4 * mib, 4*mib + mib/2} {
		pieces = append(pieces, image.Piece{Addr: at, Pages: 128, Frame: uint32(frame)})
	}
	return newMemory(3, 7, newContent(pieces),
		[]model.Range{{Start: mib, End: 2 * mib}, {Start: 4 * mib, End: 5 * mib}})
}

// where lists what is missing, by the frame it comes from, as FRAME@ADDRESS+PAGES in pages.
func where(m *memory) string {
	var out []string
	for i := range m.content.pieces {
		for _, s := range m.spans(i) {
			out = append(out, fmt.Sprintf("%d:%d@%d+%d", m.content.pieces[i].Frame, s.off, s.addr/pageSize, s.pages))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestMemory(t *testing.T) {
	const at1, at4 = "0:0@256+128 1:0@384+128", "2:0@1024+128 3:0@1152+128"
	for _, c := range []struct {
		name string
		do   func(m *memory)
		want string
		left int
	}{
		{"nothing", func(*memory) {}, at1 + " " + at4, 512},
		{
			"discarded", func(m *memory) { m.discarded(mib+64*pageSize, mib+192*pageSize) },
			"0:0@256+64 1:64@448+64 " + at4, 384,
		},
		{"discarded twice", func(m *memory) { m.discarded(mib, 2*mib); m.discarded(0, 8*mib) }, "", 0},
		{
			"unmapped in the middle", func(m *memory) { m.unmapped(mib+pageSize, 5*mib-pageSize) },
			"0:0@256+1 3:127@1279+1", 2,
		},
		{
			"moved", func(m *memory) { m.remapped(mib, 9*mib, mib); m.unmapped(mib, 2*mib) },
			"0:0@2304+128 1:0@2432+128 " + at4, 512,
		},
		{
			"moved and left registered", func(m *memory) { m.remapped(mib, 9*mib, mib); m.discarded(mib, 2*mib) },
			"0:0@2304+128 1:0@2432+128 " + at4, 512,
		},
		{
			"moved in part", func(m *memory) {
				m.remapped(mib+128*pageSize, 9*mib, mib/2)
				m.unmapped(mib+mib/2,
					2*mib)
			},
			"0:0@256+128 1:0@2304+128 " + at4, 512,
		},
		{"moved there and back", func(m *memory) {
			m.remapped(mib, 9*mib, mib)
			m.unmapped(mib, 2*mib)
			m.remapped(9*mib, mib, mib)
			m.unmapped(9*mib, 10*mib)
		}, at1 + " " + at4, 512},
		{"moved onto another", func(m *memory) {
			m.unmapped(4*mib, 5*mib) // said first
			m.remapped(mib, 4*mib, mib)
			m.unmapped(mib, 2*mib)
		}, "0:0@1024+128 1:0@1152+128", 256},
		{"one thread unmaps, another is told to move there before we hear of the first", func(m *memory) {
			m.remapped(mib, 4*mib, mib)
			m.unmapped(4*mib, 5*mib)
			m.unmapped(mib, 2*mib)
		}, "0:0@1024+128 1:0@1152+128", 256},
		{"one thread moves away, another moves there before we hear of the first", func(m *memory) {
			m.remapped(mib, 4*mib, mib)
			m.remapped(4*mib, 9*mib, mib)
			m.unmapped(mib, 2*mib)
			m.unmapped(4*mib, 5*mib) // the first one's old place
		}, "0:0@1024+128 1:0@1152+128 2:0@2304+128 3:0@2432+128", 512},
	} {
		m := sample()
		c.do(m)
		if got := where(m); got != c.want || m.left != c.left {
			t.Errorf("%s: have %d: %s, want %d: %s", c.name, m.left, got, c.left, c.want)
		}
		if m.settled(); m.doubt {
			t.Errorf("%s: in doubt", c.name)
		}
		for i := 1; i < len(m.areas); i++ {
			if m.areas[i].start < m.areas[i-1].end {
				t.Errorf("%s: areas overlap: %v", c.name, m.areas)
			}
		}
	}
}

// What cannot be explained is not taken for new memory.
func TestMemoryInDoubt(t *testing.T) {
	m := sample()
	m.remapped(20*mib, 30*mib, mib)
	if !m.doubt {
		t.Error("a mapping nobody knows was moved, and nothing is in doubt")
	}
	m = sample()
	m.remapped(mib, 4*mib, mib) // onto another, and nothing is ever said about that one
	m.settled()
	if !m.doubt {
		t.Error("an area was covered, and nothing is in doubt")
	}
}

func TestMissing(t *testing.T) {
	m := sample()
	m.discarded(mib+8*pageSize, mib+28*pageSize)
	for _, c := range []struct {
		page, frame int
		ok          bool
		absent      uint64
	}{
		{256, 0, true, 0},
		{256 + 7, 0, true, 0},
		{256 + 8, 0, false, 16},
		{256 + 20, 0, false, 8},
		{256 + 28, 0, true, 0},
		{256 + 200, 1, true, 0},
		{255, 0, false, 0},
		{512, 0, false, 0},
	} {
		frame, ok, absent := m.missing(uint64(c.page) * pageSize)
		if int(frame) != c.frame || ok != c.ok || absent != c.absent {
			t.Errorf("page %d: have %d %v %d, want %d %v %d", c.page, frame, ok, absent, c.frame, c.ok, c.absent)
		}
	}
	child := m.fork(9)
	child.discarded(mib, 2*mib)
	if m.left == child.left || where(m) == where(child) {
		t.Error("a child's memory is its parent's")
	}
}
