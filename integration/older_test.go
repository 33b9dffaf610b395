package integration

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/imagetest"
)

// An image of the format before continues, is continued by one of this format, and both are restored: pages are kept
// unseen by a watch that goes on, and compared in the life that follows.
func TestOlderFormat(t *testing.T) {
	p := caseNamed(t, "threads")
	p.name, p.argv = "threads-much-longer", append(slices.Clone(p.argv[:p.args]), "6000")
	want := control(t, p)
	tg := start(t, p)
	t.Cleanup(tg.endWatch)
	last := ""
	for life := range 2 {
		for i := range 3 {
			time.Sleep(30 * time.Millisecond)
			s := tg.snap("--incremental")
			if s.Parent != last || last != "" && s.Shared == 0 {
				t.Errorf("life %d, image %d: %+v, on top of %q", life, i, s, last)
			}
			if last = s.ID; life == 0 && i == 1 || life == 1 && i == 2 { // one that is continued, and the one restored last
				continue
			}
			if err := imagetest.Format2(tg.path("image"), s.ID); err != nil {
				t.Fatal(err)
			}
		}
		tg.kill()
		tg.awaitNoWatch()
		tg.restore()
	}
	same(t, p.name, tg.finish(), want)
	formats := map[uint32]int{}
	files, _ := filepath.Glob(filepath.Join(tg.path("image"), "images", "*", "state"))
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		formats[binary.LittleEndian.Uint32(b[12:])]++
	}
	if formats[2] != 4 || formats[3] != 2 {
		t.Errorf("images by format: %v", formats)
	}
}
