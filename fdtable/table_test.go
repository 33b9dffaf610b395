package fdtable

import (
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// Every kind that an image can hold is captured and opened again here, and no other.
func TestTableOfKinds(t *testing.T) {
	for _, k := range model.FDKinds() {
		if e := kinds[k.Name]; e == nil || e.capture == nil || e.open == nil {
			t.Errorf("%s: nobody captures it, or opens it again", k.Name)
		}
	}
	for name := range kinds {
		if model.FDKindOf(name) == nil {
			t.Errorf("%s is captured, and no image can hold it", name)
		}
	}
}
