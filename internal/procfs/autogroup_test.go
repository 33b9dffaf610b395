package procfs

import (
	"strings"
	"testing"
)

func TestParseAutogroup(t *testing.T) {
	for text, want := range map[string]int{"/autogroup-69 nice 0\n": 0, "/autogroup-1 nice -7\n": -7, "": 0} {
		if got, err := ParseAutogroup(strings.NewReader(text)); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, bad := range []string{"/autogroup-69\n", "/autogroup-69 nice x\n", "/group nice 1\n"} {
		if _, err := ParseAutogroup(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
