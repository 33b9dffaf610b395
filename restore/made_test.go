package restore

import (
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/model"
)

// unixStat is what os.FileInfo.Sys gives.
type unixStat = syscall.Stat_t

// writeImage makes an image of a state, with what is in each space from address 0 on, and opens it.
func writeImage(t *testing.T, st *model.State, spaces map[model.Space][]byte) *image.Reader {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	w, err := image.Create(dir, image.WriteOptions{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for space, data := range spaces {
		if err := w.Write(space, 0, data); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Commit(st); err != nil {
		t.Fatal(err)
	}
	img, err := image.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

func contentOf(t *testing.T, img *image.Reader) content {
	t.Helper()
	return content{ctx: t.Context(), img: img}
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
