package sigs

import "testing"

// What is pending and not queued is added, once, as the kernel tells it; SIGKILL is not.
func TestComplete(t *testing.T) {
	queued := make([]byte, size)
	queued[0], queued[offCode] = 10, 0xff
	got := Complete([][]byte{queued}, 1<<(10-1)|1<<(9-1)|1<<(37-1)|1<<(64-1))
	if len(got) != 3 || Number(got[0]) != 10 || got[0][offCode] != 0xff {
		t.Fatalf("got %d signals, first %d", len(got), Number(got[0]))
	}
	for i, want := range []int{37, 64} {
		info := got[i+1]
		if len(info) != size || Number(info) != want {
			t.Errorf("signal %d in %d bytes, want %d", Number(info), len(info), want)
		}
		for _, b := range info[4:] {
			if b != 0 {
				t.Errorf("signal %d says more than that it came: %x", want, info)
				break
			}
		}
	}
}
