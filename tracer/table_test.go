package tracer

import (
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// Every flag that the iterators name is one that something is known of.
func TestTableOfFlags(t *testing.T) {
	for bit, name := range vmFlagNames {
		if _, ok := model.VMAFlagOf(name); name != "" && !ok {
			t.Errorf("bit %d, %s, is not in the table", bit, name)
		}
	}
}
