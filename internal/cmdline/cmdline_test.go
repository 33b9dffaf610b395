package cmdline

import (
	"strings"
	"testing"
)

func TestTexts(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Quote("a/b-c_1.x"), "a/b-c_1.x"},
		{Quote("it's"), `'it'\''s'`},
		{Quote(""), "''"},
		{Text([]string{"a\nb", "c"}), "a b c"},
		{Text([]string{strings.Repeat("x", 100)}), strings.Repeat("x", 57) + "..."},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}
