package image_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// bound is where an info file says what another file is.
var bound = regexp.MustCompile(`"(state|pages|data)":{"size":[0-9]+,"sum":[0-9]+}`)

// rebind makes an info file name what b, to be stored as the named file, is now.
func rebind(info []byte, name string, b []byte) []byte {
	content := bound.ReplaceAllFunc(info[80:], func(m []byte) []byte {
		if string(bound.FindSubmatch(m)[1]) != name {
			return m
		}
		return fmt.Appendf(nil, `"%s":{"size":%d,"sum":%d}`, name, len(b), binary.LittleEndian.Uint64(b[64:]))
	})
	out := append(info[:80:80], content...)
	binary.LittleEndian.PutUint64(out[48:], uint64(len(content)))
	binary.LittleEndian.PutUint64(out[56:], uint64(len(content)))
	return reseal(out)
}

// ownID is where an info file says which image it is of.
var ownID = regexp.MustCompile(`^{"id":"[^"]*"`)

// settle makes the id, the lengths and the checksums of a file right.
func settle(b []byte, name, id string) []byte {
	b = append([]byte(nil), b...)
	switch {
	case name == "info":
		b = append(b[:80:80], ownID.ReplaceAll(b[80:], fmt.Appendf(nil, `{"id":"%s"`, id))...)
	case name == "pages" && len(b) >= 112:
		copy(b[96:112], id+"\x00\x00\x00\x00")
	}
	copy(b[32:48], id)
	binary.LittleEndian.PutUint64(b[48:], uint64(len(b)-80))
	if name != "state" {
		binary.LittleEndian.PutUint64(b[56:], uint64(len(b)-80))
	}
	return reseal(b)
}

// FuzzReader puts bytes in the place of a file of a small image. With sealed, what would be caught by a checksum or by
// the info file is made right first, so that the checks behind are reached.
func FuzzReader(f *testing.F) {
	dir := small(f)
	files := map[string]string{}
	for _, path := range storeFiles(f, dir) {
		files[filepath.Base(path)] = path
	}
	id := filepath.Base(filepath.Dir(files["info"]))
	info, err := os.ReadFile(files["info"])
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"store", "head", "info", "state", "pages", "data"} {
		b, err := os.ReadFile(files[name])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(name, b, false)
		f.Add(name, b, true)
	}
	f.Fuzz(func(t *testing.T, name string, b []byte, sealed bool) {
		path, ok := files[name]
		if !ok || len(b) > 1<<20 {
			return
		}
		newInfo := info
		if sealed && len(b) >= 80 && name != "head" && name != "store" {
			b = settle(b, name, id)
			newInfo = rebind(info, name, b)
		}
		if name == "info" {
			newInfo = b
		}
		before := allocated()
		replace(t, files["info"], newInfo, func() {
			replace(t, path, b, func() {
				v, l := use(dir)
				for _, err := range []error{v, l} {
					var e *fault.Error
					if err != nil && !errors.As(err, &e) {
						t.Errorf("%v is no fault", err)
					}
				}
			})
		})
		if n := allocated() - before; n > 256<<20 {
			t.Errorf("%d bytes allocated", n)
		}
	})
}
