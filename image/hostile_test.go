package image_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// The versions of the format: that of one JSON document, and that of records.
const (
	document = 2
	records  = 3
)

// pack returns a state file of a format, with right checksums, that holds content compressed and says it has raw bytes.
func pack(t testing.TB, format uint32, id string, content []byte, raw uint64) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 80)
	copy(b, "bpfckpt\x1aSTAT")
	le := binary.LittleEndian
	le.PutUint32(b[12:], format)
	le.PutUint32(b[24:], 1)
	copy(b[32:], id)
	b = enc.EncodeAll(content, b)
	le.PutUint64(b[48:], uint64(len(b)-80))
	le.PutUint64(b[56:], raw)
	return reseal(b)
}

// with puts b in the place of a file of the only image of a store, makes the info file agree, and opens the store.
func with(t testing.TB, dir, name string, b []byte) error {
	t.Helper()
	var err error
	infos, lerr := image.List(dir)
	if lerr != nil || len(infos) != 1 {
		t.Fatal(infos, lerr)
	}
	base := filepath.Join(dir, "images", infos[0].ID)
	info, rerr := os.ReadFile(filepath.Join(base, "info"))
	if rerr != nil {
		t.Fatal(rerr)
	}
	replace(t, filepath.Join(base, "info"), rebind(info, name, b), func() {
		replace(t, filepath.Join(base, name), b, func() {
			var r *image.Reader
			if r, err = image.Open(dir); err == nil {
				_ = r.Close()
			}
		})
	})
	return err
}

// sound returns a file of the only image of a store.
func sound(t testing.TB, dir, name string) []byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "images", "*", name))
	if err != nil || len(paths) != 1 {
		t.Fatal(paths, err)
	}
	b, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHostileState(t *testing.T) {
	dir := small(t)
	infos, _ := image.List(dir)
	id := infos[0].ID
	pad := func(s, unit string, n int) []byte { return []byte(s + strings.Repeat(unit, n)) }
	for _, c := range []struct {
		what    string
		content []byte
		raw     int64 // 0: that of content
		code    fault.Code
	}{
		{"empty", nil, 1, fault.ImageState},
		{"no JSON", []byte("hello"), 0, fault.ImageState},
		{"null", []byte("null"), 0, fault.ImageState},
		{"empty objects", pad(`{"kernel":{},"processes":[`, "{},", 4<<20), 0, fault.ImageState},
		{"empty processes", pad(`{"processes":[`, "{},", 4<<20), 0, fault.ImageState},
		{"spaces", pad("", " ", 15<<20), 0, fault.ImageState},
		{"deep", pad("", "[", 15<<20), 0, fault.ImageState},
		{"a long number", pad(`{"kernel":`, "9", 15<<20), 0, fault.ImageState},
		{"a bomb", make([]byte, 15<<20), 5000, fault.ImageDamaged},
		{"too large", make([]byte, 64<<20), 0, fault.ImageSize},
		{"says more", []byte("{}"), 15 << 20, fault.ImageDamaged},
		{"absurd", []byte("{}"), 1 << 40, fault.ImageSize},
	} {
		raw := uint64(len(c.content))
		if c.raw != 0 {
			raw = uint64(c.raw)
		}
		if c.what == "empty" {
			c.content = []byte(" ")
		}
		wantRefused(t, dir, c.what, c.code, pack(t, document, id, c.content, raw))
	}
}

// wantRefused opens an image with another state file and checks that this ends as it should, without much memory.
func wantRefused(t testing.TB, dir, what string, code fault.Code, b []byte) {
	t.Helper()
	before := allocated()
	err := with(t, dir, "state", b)
	if n := allocated() - before; n > 64<<20 {
		t.Errorf("%s: %d bytes allocated", what, n)
	}
	wantBadImage(t, what, dir, err)
	wantCode(t, err, code)
}

// A few bytes of a file cannot make lists of millions.
func TestHostileRecordsInAFile(t *testing.T) {
	dir := small(t)
	infos, _ := image.List(dir)
	id := infos[0].ID
	text := stateText(t, dir)
	mappings := func(n int) []byte { // the shortest there are
		payload := binary.AppendUvarint(binary.AppendUvarint(nil, 2), uint64(n)+1)
		payload = append(payload, 0, 0, 0, 0, 0, 0, 1, 0)
		return changeRecord(t, text, "mappings", func([]byte) []byte {
			return append(payload, make([]byte, 7*(n-1)+20)...)
		})
	}
	head := func(n int) []byte { return append([]byte(nil), text[:n]...) }
	for _, c := range []struct {
		what    string
		content []byte
		raw     int // 0: that of content
		code    fault.Code
	}{
		{"half a head", head(20), 0, fault.ImageState},
		{"a head", head(32), 0, fault.ImageState},
		{"zeros", make([]byte, 1<<20), 0, fault.ImageState},
		{"a million mappings", mappings(900_000), 0, fault.ImageSize},
		{"many mappings", mappings(140_000), 0, fault.ImageState},
		{"says more", text, 1 << 20, fault.ImageDamaged},
		{"a bomb", make([]byte, 1<<20), 5000, fault.ImageDamaged},
	} {
		raw := uint64(len(c.content))
		if c.raw != 0 {
			raw = uint64(c.raw)
		}
		wantRefused(t, dir, c.what, c.code, pack(t, records, id, c.content, raw))
	}
}

// stateText returns the decoded state of the only image of a store.
func stateText(t testing.TB, dir string) []byte {
	t.Helper()
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	text, err := dec.DecodeAll(sound(t, dir, "state")[80:], nil)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// changeRecord returns the records of a state of which the payload of one is changed.
func changeRecord(t testing.TB, text []byte, kind string, change func([]byte) []byte) []byte {
	t.Helper()
	for at := 0; at < len(text); {
		n := int(binary.LittleEndian.Uint64(text[at+24:]))
		end := at + 32 + n
		if string(bytes.TrimRight(text[at:at+16], "\x00")) == kind {
			payload := change(append([]byte(nil), text[at+32:end]...))
			out := binary.LittleEndian.AppendUint64(append([]byte(nil), text[:at+24]...), uint64(len(payload)))
			return slices.Concat(out, payload, text[end:])
		}
		at = end
	}
	t.Fatalf("no record %s", kind)
	return nil
}

// later is a record that this release has no meaning for.
func later(kind string, version uint32, must uint32) []byte {
	b := make([]byte, 32, 64)
	copy(b, kind)
	le := binary.LittleEndian
	le.PutUint32(b[16:], version)
	le.PutUint32(b[20:], must)
	le.PutUint64(b[24:], 8)
	return append(b, "whatever"...)
}

// What a later version has written is read as far as it can be understood, else what it takes is named.
func TestImageOfALaterVersion(t *testing.T) {
	dir := small(t)
	infos, _ := image.List(dir)
	text := stateText(t, dir)
	file := func(b []byte) []byte { return pack(t, records, infos[0].ID, b, uint64(len(b))) }
	err := with(t, dir, "state", file(slices.Concat(later("socket", 2, 1), text, later("timens", 1, 1))))
	wantBadImage(t, "records that must be understood", dir, err)
	wantCode(t, err, fault.ImageFeature)
	if err == nil || !strings.Contains(err.Error(), "written by a later version: needs socket 2, timens 1") {
		t.Error(err)
	}
	b := file(slices.Concat(later("hint", 3, 0), text, later("facts", 9, 0), later("hint", 3, 0)))
	place(t, dir, "state", b)
	r := open(t, dir)
	if got := r.Skipped(); !slices.Equal(got, []string{"facts 9", "hint 3"}) {
		t.Errorf("skipped: %q", got)
	}
	if err := r.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// place puts b in the place of a file of the only image of a store and makes the info file agree.
func place(t testing.TB, dir, name string, b []byte) {
	t.Helper()
	infos, err := image.List(dir)
	if err != nil || len(infos) != 1 {
		t.Fatal(infos, err)
	}
	placeIn(t, dir, infos[0].ID, name, b)
}

func placeIn(t testing.TB, dir, id, name string, b []byte) {
	t.Helper()
	base := filepath.Join(dir, "images", id)
	info, err := os.ReadFile(filepath.Join(base, "info"))
	if err == nil {
		err = errors.Join(os.WriteFile(filepath.Join(base, "info"), rebind(info, name, b), 0o600),
			os.WriteFile(filepath.Join(base, name), b, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestStateIsStrict(t *testing.T) {
	dir := small(t)
	infos, _ := image.List(dir)
	text := stateText(t, dir)
	change := func(kind, from, to string) []byte {
		return changeRecord(t, text, kind, func(b []byte) []byte {
			changed := strings.Replace(string(b), from, to, 1)
			if changed == string(b) && from != to {
				t.Fatalf("%s is not in the record %s", from, kind)
			}
			return []byte(changed)
		})
	}
	try := func(b []byte) error {
		return with(t, dir, "state", pack(t, records, infos[0].ID, b, uint64(len(b))))
	}
	if err := try(change("tree", "", "")); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][3]string{
		{"tree", `"root":`, `"Root":`},
		{"tree", `"root":1234`, ``},
		{"tree", `"root":1234`, `"root":1234,"root":1234`},
		{"tree", `"root":1234`, `"root":1234,"more":1`},
		{"tree", `"root":1234`, `"root": 1234`},
		{"tree", `"root":1234`, `"root":1234.0`},
		{"tree", `"root":1234`, `"root":null`},
		{"tree", `"root":1234`, `"root":"1234"`},
		{"tree", `"root":1234`, `"root":01234`},
		{"process", `"umask":18`, `"umask":-1`},
		{"process", `"umask":18`, `"umask":99999999999`},
		{"process", `"umask":18`, `"umask":18,"vmas":[]`},
		{"process", `"args":["prog"`, `"args":[["prog"]`},
		{"process", `"auxv":"AAAA`, `"auxv":"*AAA`},
		{"process", `"itimers":[`, `"itimers":[{"value":0,"interval":0},`},
	} {
		err := try(change(c[0], c[1], c[2]))
		wantBadImage(t, fmt.Sprint(c), dir, err)
		wantCode(t, err, fault.ImageState)
	}
}
