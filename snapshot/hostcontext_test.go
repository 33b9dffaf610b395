package snapshot

import "testing"

// A set of semaphores on which nobody has ever operated leaves nothing to undo.
func TestOperated(t *testing.T) {
	const head = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n"
	for _, c := range []struct {
		text string
		want bool
	}{
		{"", false},
		{head, false},
		{head + "         0      32783   600          1     0     0     0     0          0 1795864192\n", false},
		{head + "         0      32783   600          1     0     0     0     0          0 1795864192\n" +
			"         7          2   600          1     0     0     0     0 1795864199 1795864192\n", true},
		{head + "a line of another kernel\n", true},
	} {
		if got := operated(c.text); got != c.want {
			t.Errorf("%q: %v", c.text, got)
		}
	}
}
