package procid

import "testing"

func TestParse(t *testing.T) {
	for _, text := range []string{"", "1", "1-2", "1-2-", "1-2-3-4", "a-2-3", "1-2-03", "-1-2-3"} {
		if id, ok := Parse(text); ok {
			t.Errorf("%q is %+v", text, id)
		}
	}
	want := ID{NS: Initial, Pid: 7, Start: 4711}
	if id, ok := Parse(want.String()); !ok || id != want {
		t.Errorf("%q is %+v, %v", want, id, ok)
	}
}
