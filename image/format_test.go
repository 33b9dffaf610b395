package image

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// FuzzState decodes bytes as the records of a state. Whatever is taken must come out the same when encoded again:
// nothing was skipped. What is packed comes out in the same bytes.
func FuzzState(f *testing.F) {
	for _, st := range []*model.State{
		{Processes: []model.Process{{Threads: []model.Thread{{Restart: &model.Restart{}}}, VMAs: []model.VMA{{}}}}}, stored(),
	} {
		b, err := encodeState(st)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		st, unknown, err := decodeState(b)
		if err != nil {
			return
		}
		_ = st.Validate()
		again, err := encodeState(st)
		if err != nil {
			t.Fatal(err)
		}
		second, _, err := decodeState(again)
		if err != nil || !reflect.DeepEqual(st, second) {
			t.Errorf("%q comes back as %q: %v", b, again, err)
		}
		before, _, _ := splitRecords(b, recordKinds())
		after, _, _ := splitRecords(again, recordKinds())
		if len(before) != len(after) {
			t.Fatalf("%d records and %d unknown ones come back as %d", len(before), len(unknown), len(after))
		}
		for i := range before {
			if k := kindNamed(before[i].kind); k.packed && !bytes.Equal(before[i].payload, after[i].payload) {
				t.Errorf("%s: %x comes back as %x", k.name, before[i].payload, after[i].payload)
			}
		}
	})
}

func kindNamed(name string) *recordKind {
	kinds := recordKinds()
	return &kinds[slices.IndexFunc(kinds, func(k recordKind) bool { return k.name == name })]
}

// FuzzOldState decodes bytes as the one document that a state was up to version 2 of the format.
func FuzzOldState(f *testing.F) {
	b, err := json.Marshal(&model.State{Processes: []model.Process{{Threads: []model.Thread{{Restart: &model.Restart{}}}, VMAs: []model.VMA{{}}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		if st, err := decodeOldState(b); err == nil {
			_ = st.Validate()
		}
	})
}

// FuzzPageMap decodes bytes as a page map. Whatever is taken must come out the same when encoded again, and Load must
// be able to rely on it.
func FuzzPageMap(f *testing.F) {
	const id = "0123456789ab"
	m := pageMap{
		images: []string{id, "ba9876543210"},
		frames: []frame{
			{0, codecZstd, dataStart, 100, 8192, 5},
			{0, codecRaw, 8192, 4096, 4096, 6},
			{1, codecZstd, 5000, 7, 4096, 7},
		},
		runs: []run{{0x1000, 1, 2, 0, 0}, {0x3000, 1, 9, frameZero, 0}, {0, 2, 1, 1, 0}, {0x1000, 2, 1, 2, 0}},
	}
	var b bytes.Buffer
	if err := m.write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readPageMap("pages", id, bytes.NewReader(b), uint64(len(b)))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := m.write(&again); err != nil || !bytes.Equal(again.Bytes(), b) || m.size() != int64(len(b)) {
			t.Errorf("%x comes back as %x: %v", b, again.Bytes(), err)
		}
		n := 0
		for i, r := range m.runs {
			if i == 0 || r.space != m.runs[i-1].space {
				n += len(m.of(r.space))
			}
			if r.frame != frameZero && (r.off+r.pages)*model.PageSize > m.frames[r.frame].raw {
				t.Errorf("run %d reaches beyond its frame", i)
			}
		}
		if n != len(m.runs) {
			t.Errorf("the spaces have %d runs of %d", n, len(m.runs))
		}
		_ = m.ownEnd()
	})
}

func TestPageMapWrite(t *testing.T) {
	// More records than fit into the buffer of write.
	const id = "0123456789ab"
	m := pageMap{images: []string{id}}
	end := uint64(dataStart)
	for i := range 3000 {
		m.frames = append(m.frames, frame{codec: codecZstd, offset: end, stored: 100, raw: maxFrame, sum: uint64(i)})
		end += 100
	}
	for i := range 10000 {
		m.runs = append(m.runs, run{uint64(i) * 8192, model.Space(1 + i/5000), 1, uint32(i % 3000), uint32(i % 256)})
	}
	var b bytes.Buffer
	if err := m.write(&b); err != nil {
		t.Fatal(err)
	}
	back, err := readPageMap("pages", id, &b, uint64(m.size()))
	if err != nil || !reflect.DeepEqual(back, &m) {
		t.Errorf("comes back different: %v", err)
	}
}

func TestResolve(t *testing.T) {
	// Random runs over 64 pages of two spaces, against what a map says that writes page by page.
	rng := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		type place struct {
			space model.Space
			page  uint64
		}
		var list runList
		expected := map[place]run{}
		for i := range rng.IntN(40) {
			r := run{
				addr: uint64(rng.IntN(50)) * model.PageSize, space: model.Space(1 + rng.IntN(2)),
				pages: uint32(1 + rng.IntN(12)),
			}
			switch rng.IntN(4) {
			case 0:
				r.frame = frameZero
			case 1:
				r.frame = frameGone
			default:
				r.frame, r.off = uint32(i/4), uint32(rng.IntN(100))
			}
			list.add(r)
			for p := range uint64(r.pages) {
				one := r.part(r.addr+p*model.PageSize, r.addr+(p+1)*model.PageSize)
				expected[place{r.space, one.addr}] = one
			}
		}
		out := list.resolve()
		if !slices.IsSortedFunc(out, func(a, b run) int {
			return int(a.space)*1000 + int(a.addr/model.PageSize) - int(b.space)*1000 - int(b.addr/model.PageSize)
		}) ||
			!runList(out).disjoint() {
			t.Fatalf("not sorted or not disjoint: %v", out)
		}
		seen := 0
		for _, r := range out {
			for p := range uint64(r.pages) {
				one := r.part(r.addr+p*model.PageSize, r.addr+(p+1)*model.PageSize)
				if one != expected[place{r.space, one.addr}] {
					t.Fatalf("%v, want %v", one, expected[place{r.space, one.addr}])
				}
				seen++
			}
		}
		for _, r := range expected {
			if r.frame != frameGone {
				seen--
			}
		}
		if seen != 0 {
			t.Fatalf("%d pages too many", seen)
		}
	}
}

func TestEscapeText(t *testing.T) {
	for _, s := range []string{
		"", "plain", "\xff", "\xf4\x8f\xbf\xbf", "\U0010ff7f\U0010ff80", "\xf4\x8f", "ü\xfc",
		"\ufffd",
	} {
		e := escapeText(s)
		if got := unescapeText(e); got != s {
			t.Errorf("%q comes back as %q by way of %q", s, got, e)
		}
	}
	if got := escapeText("ü"); got != "ü" {
		t.Errorf("text is changed to %q", got)
	}
}
