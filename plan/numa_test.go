package plan

import (
	"slices"
	"testing"
)

func TestParseMask(t *testing.T) {
	mask, err := ParseMask("0-1,64,66-67", 1024)
	if err != nil || !slices.Equal(mask, []uint64{3, 1 | 1<<2 | 1<<3}) {
		t.Errorf("%x, %v", mask, err)
	}
	for _, bad := range []string{"", "x", "3-1", "-1", "99999"} {
		if _, err := ParseMask(bad, 1024); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
