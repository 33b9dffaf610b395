package image

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// later is what a later release would have: kinds that this one has not.
func later(kind string, version uint32, must bool) stateRecord {
	return stateRecord{kind: kind, version: version, must: must, payload: []byte(`{"later":true}`)}
}

func join(records ...stateRecord) (b []byte) {
	for i := range records {
		b = records[i].append(b)
	}
	return b
}

// A reader names all it lacks of a state that a later version has written.
func TestLaterVersion(t *testing.T) {
	st := stored()
	records := recordsOf(t, st)
	at := len(records) / 2
	for _, c := range []struct {
		what  string
		added []stateRecord
		want  string // "" if the state is read
		extra int
	}{
		{"an unknown kind", []stateRecord{later("socket", 2, true)}, "needs socket 2", 0},
		{
			"several",
			[]stateRecord{later("socket", 2, true), later("mm", 1, true), later("socket", 2, true)},
			"needs socket 2, mm 1", 0,
		},
		{"a later version of a known kind", []stateRecord{later("pipe", 7, true)}, "needs pipe 7", 0},
		{"one that may be skipped", []stateRecord{later("hint", 3, false)}, "", 1},
		{"later facts", []stateRecord{later("facts", 2, false)}, "", 1},
		{"both", []stateRecord{later("hint", 3, false), later("socket", 1, true)}, "needs socket 1", 0},
		{"the longest name", []stateRecord{later(strings.Repeat("a", 16), 1, true)}, "needs aaaaaaaaaaaaaaaa 1", 0},
	} {
		b := join(slices.Concat(records[:at], c.added, records[at:])...)
		back, unknown, err := decodeState(b)
		var e *laterVersion
		switch {
		case c.want != "":
			if !errors.As(err, &e) || e.Error() != "written by a later version: "+c.want {
				t.Errorf("%s: %v, want %q", c.what, err, c.want)
			}
		case err != nil || len(unknown) != c.extra || Difference(st, back) != "":
			t.Errorf("%s: %v, %d unknown records", c.what, err, len(unknown))
		}
	}
}

// What is no sequence of records is refused, without memory for what it says.
func TestHostileRecords(t *testing.T) {
	st := stored()
	good := join(recordsOf(t, st)...)
	put := func(at int, v uint64) []byte {
		b := slices.Clone(good)
		binary.LittleEndian.PutUint64(b[at:], v)
		return b
	}
	kind := func(name string) []byte {
		b := slices.Clone(good)
		clear(b[:kindField])
		copy(b, name)
		return b
	}
	many := make([]stateRecord, maxUnknown+1)
	for i := range many {
		many[i] = later("hint", uint32(i+1), false)
	}
	for what, b := range map[string][]byte{
		"no record":                nil,
		"half a head":              good[:20],
		"a head alone":             good[:recordHead],
		"cut short":                good[:len(good)-1],
		"a byte too many":          append(slices.Clone(good), 0),
		"zeros behind":             append(slices.Clone(good), make([]byte, recordHead)...),
		"a huge length":            put(kindField+8, 1<<63),
		"a length that wraps":      put(kindField+8, 1<<64-1),
		"one byte more":            put(kindField+8, binary.LittleEndian.Uint64(good[kindField+8:])+1),
		"version 0":                put(kindField, 1<<32),
		"another flag":             put(kindField, 1|3<<32),
		"no kind":                  kind(""),
		"a kind in capitals":       kind("Kernel"),
		"a kind with a digit":      kind("kernel1"),
		"text behind the kind":     kind("kernel\x00x"),
		"a kind with a zero":       kind("ker\x00nel"),
		"all unknown, and skipped": join(many...),
	} {
		var e *laterVersion
		if _, _, err := decodeState(b); err == nil || errors.As(err, &e) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range many {
		many[i].must = true
	}
	if _, _, err := decodeState(join(many...)); err == nil || len(err.Error()) > 200 {
		t.Errorf("many kinds: %v", err)
	}
}

// Packed lists that say they are long cost no memory.
func TestHostilePacked(t *testing.T) {
	uvarint := func(n ...uint64) (b []byte) {
		for _, v := range n {
			b = binary.AppendUvarint(b, v)
		}
		return b
	}
	for what, c := range map[string]struct {
		into any
		b    []byte
	}{
		"nothing":                       {new([]model.VMA), nil},
		"more than there is":            {new([]model.VMA), uvarint(1 << 62)},
		"more than there is room for":   {new([]model.VMA), append(uvarint(2000), make([]byte, 2000)...)},
		"lists of lists":                {new([][]model.VMA), append(uvarint(100), uvarint(1<<40)...)},
		"bytes":                         {new([]byte), uvarint(1 << 63)},
		"a string":                      {new(string), uvarint(0, 1<<63)},
		"a string that is not there":    {new(string), uvarint(1)},
		"a string twice":                {new([]string), uvarint(3, 0, 1, 'a', 0, 1, 'a')},
		"a number with a zero too many": {new(uint64), []byte{0x80, 0}},
		"a number of 65 bits":           {new(uint64), []byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 2}},
		"a number without an end":       {new(uint64), []byte{255}},
		"a number too large":            {new(uint16), uvarint(1 << 16)},
		"a truth of two":                {new(bool), uvarint(2)},
		"half a pointer":                {new(*model.Clamp), uvarint(2, 0, 0)},
		"an unknown field":              {new(model.MappedFile), uvarint(1 << 9)},
		"a field that is there, empty":  {new(model.MappedFile), append(uvarint(1), uvarint(0, 0, 0, 0, 0, 0, 0)...)},
		"something behind":              {new(uint64), uvarint(1, 1)},
	} {
		if err := unpack(newShape(reflect.TypeOf(c.into).Elem()), c.b, c.into); err == nil {
			t.Errorf("%s: taken as %v", what, reflect.ValueOf(c.into).Elem())
		}
	}
}

// Numbers come back at both ends of their ranges.
func TestPackedNumbers(t *testing.T) {
	type numbers struct {
		A int8
		B int16
		C int32
		D int64
		E uint8
		F uint16
		G uint32
		H uint64
		I int
		J [2]bool
	}
	sh := newShape(reflect.TypeFor[numbers]())
	for _, n := range []numbers{
		{},
		{-128, -1 << 15, -1 << 31, -1 << 63, 255, 1<<16 - 1, 1<<32 - 1, 1<<64 - 1, -1 << 63, [2]bool{true, false}},
		{127, 1<<15 - 1, 1<<31 - 1, 1<<63 - 1, 1, 1, 1, 1, 1<<63 - 1, [2]bool{false, true}},
		{A: -1, B: -1, C: -1, D: -1, I: -1},
	} {
		var back numbers
		if err := unpack(sh, pack(sh, &n), &back); err != nil || back != n {
			t.Errorf("%v comes back as %v: %v", n, back, err)
		}
	}
}

// A record has the version of the newest field that it uses, and none that is newer than it says.
func TestRecordVersions(t *testing.T) {
	type inner struct {
		A int `json:"a"`
		B int `json:"b,omitempty" since:"3"`
	}
	type object struct {
		Old  int     `json:"old"`
		Deep []inner `json:"deep,omitempty"`
		Next string  `json:"next,omitempty" since:"2"`
		Ptr  *inner  `json:"ptr,omitempty" since:"2"`
	}
	var held object
	kinds := []recordKind{
		one("object", func(*model.State) *object { return &held }),
		packed("table", func(*model.State) *object { return &held }, func(_ *model.State, o *object) error { held = *o; return nil }),
	}
	if kinds[0].version() != 3 || kinds[1].version() != 3 {
		t.Fatalf("versions %d and %d", kinds[0].version(), kinds[1].version())
	}
	for _, c := range []struct {
		object
		version uint32
	}{
		{object{Old: 1}, 1},
		{object{Old: 1, Deep: []inner{{A: 1}}}, 1},
		{object{Next: "x"}, 2},
		{object{Ptr: &inner{}}, 2},
		{object{Ptr: &inner{B: 1}}, 3},
		{object{Deep: []inner{{}, {B: 1}}}, 3},
	} {
		held = c.object
		b, err := encodeKinds(nil, kinds)
		if err != nil {
			t.Fatal(err)
		}
		records, _, err := splitRecords(b, kinds)
		if err != nil || records[0].version != c.version || records[1].version != c.version {
			t.Errorf("%+v: %v, %v", c.object, records, err)
		}
		held = object{}
		if _, _, err := decodeKinds(b, kinds); err != nil || !reflect.DeepEqual(held, c.object) {
			t.Errorf("%+v comes back as %+v: %v", c.object, held, err)
		}
		for i := range records {
			bad := slices.Clone(records)
			if bad[i].version--; c.version == 1 {
				bad[i].version = 3
			}
			if _, _, err := decodeKinds(join(bad...), kinds); err == nil {
				t.Errorf("%+v: a record that says version %d is taken", c.object, bad[i].version)
			}
		}
	}
}

// A field that came later stands behind the others, and may be missing.
func TestFieldsThatCannotBe(t *testing.T) {
	for _, v := range []any{
		struct {
			A int `json:"a,omitempty" since:"2"`
			B int `json:"b,omitempty"`
		}{},
		struct {
			A int `json:"a" since:"2"`
		}{},
		struct {
			A int `json:"a,omitempty" since:"0"`
		}{},
		struct{ F float64 }{},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%T has a shape", v)
				}
			}()
			newShape(reflect.TypeOf(v))
		}()
	}
}

// Fields that are never stored have no part in what a record says.
func TestShapeSizes(t *testing.T) {
	for _, k := range recordKinds() {
		var walk func(sh *shape)
		walk = func(sh *shape) {
			if sh.least < 1 || len(sh.optional) > 64 {
				t.Errorf("%s: a %s takes %d bytes at least and has %d optional fields", k.name, sh.typ, sh.least,
					len(sh.optional))
			}
			if sh.kind == reflect.Slice && sh.elem != nil && k.packed && sh.elem.size > 40*uintptr(sh.elem.least) {
				t.Errorf("%s: %d bytes of packed %s become %d", k.name, sh.elem.least, sh.elem.typ, sh.elem.size)
			}
			if sh.elem != nil {
				walk(sh.elem)
			}
			for i := range sh.fields {
				walk(sh.fields[i].shape)
			}
		}
		walk(k.shape)
	}
}

// BenchmarkRecords is a state with what comes in thousands: 10,000 mappings, descriptors and files, and 200 threads.
func BenchmarkRecords(b *testing.B) {
	p := model.Process{Pid: 1}
	st := &model.State{Root: 1}
	for i := range 10_000 {
		at := 0x7f1000000000 + uint64(i)*2*model.PageSize
		p.VMAs = append(p.VMAs, model.VMA{
			Start: at, End: at + model.PageSize, Prot: 3, Kind: model.VMAAnon, Flags: []string{"mr", "mw", "rd", "wr"},
		})
		p.FDs = append(p.FDs, model.FD{Num: i, File: i + 1})
		st.Files = append(st.Files, model.File{ID: i + 1, Kind: "regular", Path: "/var/lib/some/file", Ino: uint64(i), Size: 17})
	}
	for i := range 200 {
		p.Threads = append(p.Threads, model.Thread{Tid: i + 1, Comm: "worker", Regs: make([]byte, 216), XState: make([]byte, 2696)})
	}
	st.Processes = []model.Process{p}
	raw, err := encodeState(st)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(int64(len(raw)))
		for b.Loop() {
			if _, err := encodeState(st); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, r := range recordsOf(b, st) {
		if k := kindNamed(r.kind); k.packed {
			b.Run("decode/"+k.name, func(b *testing.B) {
				b.SetBytes(int64(len(r.payload)))
				for b.Loop() {
					st := model.State{Processes: []model.Process{{}}}
					if _, err := k.decode(&st, r.payload); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// layout lists the fields of a kind of records, each struct in a line: the optional ones with a question mark, those
// that came later than with version 1 with the version.
func layout(k *recordKind) string {
	var b strings.Builder
	how := "JSON"
	if k.packed {
		how = "packed"
	}
	fmt.Fprintf(&b, "%s %d %s\n", k.name, k.version(), how)
	seen := map[string]bool{}
	var walk func(sh *shape)
	walk = func(sh *shape) {
		for sh.elem != nil {
			sh = sh.elem
		}
		if len(sh.fields) == 0 || seen[sh.name] {
			return
		}
		seen[sh.name] = true
		fmt.Fprintf(&b, "\t%s:", sh.name)
		for _, f := range sh.fields {
			fmt.Fprintf(&b, " %s", f.name)
			if f.optional {
				b.WriteByte('?')
			}
			if f.since > 1 {
				fmt.Fprintf(&b, "%d", f.since)
			}
		}
		b.WriteByte('\n')
		for _, f := range sh.fields {
			walk(f.shape)
		}
	}
	walk(k.shape)
	return b.String()
}

// Records stay what they were: a new field has a tag that says with which version of its kind it came, and stands
// behind the others, for packed it is known by its place. With -update, after such a change, the list is written again.
// The record of a kind of descriptors has a list of its own.
func TestRecordLayout(t *testing.T) {
	lists := map[string]string{}
	for _, k := range recordKinds() {
		if of, one := strings.CutPrefix(k.name, "fd-"); one {
			lists["testdata/fd_"+of+".txt"] = layout(&k)
		} else {
			lists["testdata/records.txt"] += layout(&k)
		}
	}
	for path, got := range lists {
		if flag.Lookup("update").Value.String() == "true" {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("the records are\n%s\nand were\n%s", got, want)
		}
	}
}

// What is read at once is what encoding/binary reads, wherever the record ends; no number has more bytes than it needs.
func TestNumbersOfRecords(t *testing.T) {
	for bits := range 65 {
		for _, v := range []uint64{1<<bits - 1, 1 << bits, 0x9e3779b97f4a7c15 >> (64 - max(bits, 1))} {
			b := binary.AppendUvarint(nil, v)
			for more := range 10 {
				u := unpacker{b: append(slices.Clone(b), make([]byte, more)...)}
				if got := u.number(); got != v || u.at != len(b) || u.err != nil {
					t.Errorf("%#x with %d bytes behind it: %#x, to byte %d, %v", v, more, got, u.at, u.err)
				}
				long := slices.Clone(b)
				long[len(long)-1] |= 0x80
				u = unpacker{b: append(append(long, 0), make([]byte, more)...)}
				if got := u.number(); u.err == nil {
					t.Errorf("%#x in a byte too many is read as %#x", v, got)
				}
				u = unpacker{b: b[:len(b)-1]}
				if got := u.number(); u.err == nil {
					t.Errorf("%#x without its end is read as %#x", v, got)
				}
			}
		}
	}
}

// What comes in thousands is not allocated one by one.
func TestUnpackingAllocatesLittle(t *testing.T) {
	list := make([]model.VMA, 10_000)
	for i := range list {
		list[i] = model.VMA{Start: uint64(i), End: uint64(i) + 1, Kind: model.VMAAnon, Flags: []string{"mr", "mw", "rd", "wr"}}
	}
	sh := newShape(reflect.TypeFor[[]model.VMA]())
	packed := pack(sh, &list)
	n := testing.AllocsPerRun(5, func() {
		var back []model.VMA
		if err := unpack(sh, packed, &back); err != nil || len(back) != len(list) {
			t.Fatal(len(back), err)
		}
	})
	if n > 60 {
		t.Errorf("%v allocations", n)
	}
}
