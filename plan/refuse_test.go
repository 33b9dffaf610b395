package plan

import (
	"bytes"
	"testing"
)

func TestNotifiesFindsUserNotification(t *testing.T) {
	ins := func(code uint16, k uint32) []byte {
		return []byte{byte(code), byte(code >> 8), 0, 0, byte(k), byte(k >> 8), byte(k >> 16), byte(k >> 24)}
	}
	allow, notify, computed, load := ins(0x06, 0x7fff0000), ins(0x06, 0x7fc00000), ins(0x16, 0), ins(0x20, 0x7fc00000)
	for _, c := range []struct {
		name string
		prog [][]byte
		want bool
	}{
		{"allow", [][]byte{load, allow}, false},
		{"notify", [][]byte{load, notify, allow}, true},
		{"computed", [][]byte{load, computed}, true},
	} {
		if got := notifies(bytes.Join(c.prog, nil)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
