package image_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

// Whoever writes an image may look at its state as a reader decodes it, before it is published, and keep it from being
// published.
func TestAccept(t *testing.T) {
	refusal := errors.New("it is refused")
	for _, c := range []struct {
		name string
		err  error
	}{{"accepted", nil}, {"refused", refusal}} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			given := imagetest.State()
			asked := 0
			w, err := image.Create(dir, image.WriteOptions{Accept: func(st *model.State) error {
				asked++
				if st == given || image.Difference(st, given) != "" {
					t.Error("it is not a state that was read")
				}
				if _, err := image.Open(dir); err == nil {
					t.Error("the image is there already")
				}
				return c.err
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			_, err = w.Commit(given)
			if asked != 1 || (err == nil) != (c.err == nil) {
				t.Errorf("asked %d times, then %v", asked, err)
			}
			if r, err := image.Open(dir); err == nil {
				_ = r.Close()
				if c.err != nil {
					t.Error("it was published all the same")
				}
			} else if c.err == nil {
				t.Error(err)
			}
		})
	}
}
