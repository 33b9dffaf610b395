package image_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// pack returns a state file, with right checksums, that holds content compressed and says it has raw bytes.
func pack(t testing.TB, id string, content []byte, raw uint64) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 80)
	copy(b, "bpfckpt\x1aSTAT")
	le := binary.LittleEndian
	le.PutUint32(b[12:], 1)
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
		b := pack(t, id, c.content, raw)
		if c.what == "empty" {
			b = pack(t, id, []byte(" "), 1)
		}
		before := allocated()
		err := with(t, dir, "state", b)
		if n := allocated() - before; n > 64<<20 {
			t.Errorf("%s: %d bytes allocated", c.what, n)
		}
		wantBadImage(t, c.what, dir, err)
		wantCode(t, err, c.code)
	}
}

func TestHostilePageMap(t *testing.T) {
	dir := small(t)
	b := sound(t, dir, "pages")
	le := binary.LittleEndian
	const images, frames = 80 + 16, 80 + 16 + 16
	runs := frames + 32*int(le.Uint32(b[80+4:]))
	if n := le.Uint64(b[88:]); le.Uint32(b[84:]) != 1 || n < 3 {
		t.Fatalf("%d frames, %d runs", le.Uint32(b[84:]), n)
	}
	type change struct {
		what       string
		off, width int
		value      uint64
	}
	changes := []change{
		{"no image", 80, 4, 0},
		{"many images", 80, 4, 1 << 31},
		{"many frames", 84, 4, 1<<32 - 1},
		{"many runs", 88, 8, 1<<64 - 1},
		{"runs that wrap", 88, 8, 1 << 61},
		{"another image's id", images, 4, 0x30303030},
		{"an id that is a path", images, 8, 0x2f2e2e2f2e2e},
		{"frame of image 1", frames, 4, 1},
		{"frame of unknown codec", frames + 4, 4, 2},
		{"frame at 0", frames + 8, 8, 0},
		{"frame at the end of the world", frames + 8, 8, 1<<64 - 1},
		{"frame elsewhere", frames + 8, 8, 8192},
		{"frame without bytes", frames + 16, 4, 0},
		{"frame with more stored than raw", frames + 16, 4, 1 << 30},
		{"frame of 4 GiB", frames + 20, 4, 1<<32 - 1},
		{"frame of no pages", frames + 20, 4, 0},
		{"frame of half a page", frames + 20, 4, 6000},
		{"run of space 0", runs + 8, 4, 0},
		{"run of a space nobody has", runs + 8, 4, 99},
		{"run not aligned", runs, 8, 0x1000001},
		{"run in unmapped memory", runs, 8, 0x2000000},
		{"run at the end of the world", runs, 8, 1<<64 - 4096},
		{"run of no pages", runs + 12, 4, 0},
		{"run that wraps", runs + 12, 4, 1<<32 - 1},
		{"run of an unknown frame", runs + 16, 4, 77},
		{"run of the writer's mark for discarded pages", runs + 16, 4, 1<<32 - 2},
		{"run beyond its frame", runs + 20, 4, 1 << 20},
		{"run whose offset wraps", runs + 20, 4, 1<<32 - 1},
		{"run over the next", runs + 24, 8, le.Uint64(b[runs:])},
	}
	for _, c := range changes {
		x := put(c.off, c.width, c.value)(append([]byte(nil), b...))
		before := allocated()
		err := with(t, dir, "pages", x)
		if n := allocated() - before; n > 4<<20 {
			t.Errorf("%s: %d bytes allocated", c.what, n)
		}
		wantBadImage(t, c.what, dir, err)
	}
	// A large map costs memory only as far as it is sound: 64 MiB of zeros end at the second run.
	long := append(append([]byte(nil), b...), make([]byte, 64<<20-64<<20%24)...)
	put(56, 8, uint64(len(long)-80))(put(48, 8, uint64(len(long)-80))(put(88, 8, le.Uint64(b[88:])+64<<20/24)(long)))
	err := with(t, dir, "pages", long)
	wantCode(t, err, fault.ImageMap)
}

func TestStateIsStrict(t *testing.T) {
	dir := small(t)
	infos, _ := image.List(dir)
	stored := sound(t, dir, "state")
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	text, err := dec.DecodeAll(stored[80:], nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := with(t, dir, "state", pack(t, infos[0].ID, text, uint64(len(text)))); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{`"root":`, `"Root":`},
		{`"root":1234,`, ``},
		{`"root":1234,`, `"root":1234,"root":1234,`},
		{`"root":1234,`, `"root":1234,"more":1,`},
		{`"root":1234,`, `"root": 1234,`},
		{`"root":1234,`, `"root":1234.0,`},
		{`"root":1234,`, `"root":null,`},
		{`"root":1234,`, `"root":"1234",`},
		{`"root":1234,`, `"root":01234,`},
		{`"umask":18`, `"umask":-1`},
		{`"umask":18`, `"umask":99999999999`},
		{`"comm":"prog"`, `"comm":["prog"]`},
		{`"regs":"AAAA`, `"regs":"*AAA`},
		{`"itimers":[`, `"itimers":[{"value":0,"interval":0},`},
	} {
		broken := strings.Replace(string(text), c[0], c[1], 1)
		if broken == string(text) {
			t.Fatalf("%s is not in the state", c[0])
		}
		err := with(t, dir, "state", pack(t, infos[0].ID, []byte(broken), uint64(len(broken))))
		wantBadImage(t, fmt.Sprint(c), dir, err)
		wantCode(t, err, fault.ImageState)
	}
}
