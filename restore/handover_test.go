package restore

import (
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

func numbered(nums ...int) []model.FD {
	var fds []model.FD
	for _, n := range nums {
		fds = append(fds, model.FD{Num: n})
	}
	return fds
}

// The socket takes a number that none of the descriptors has, never one above them that the limit may not allow; what
// arrives beside it never lands above its place.
func TestSocketTakesAFreeNumber(t *testing.T) {
	for _, c := range []struct {
		fds  []model.FD
		want int
	}{
		{nil, 0},
		{numbered(1, 2), 0},
		{numbered(0, 1, 2), 3},
		{numbered(0, 1, 2, 4, 5, 1<<20-1), 3},
		{numbered(0, 1, 2, 3, 4, 6, 7, 8), 5},
	} {
		p := &process{rec: &model.Process{FDs: c.fds}, socket: plan.FreeNumber(c.fds)}
		if p.socket != c.want {
			t.Errorf("%v: the socket is %d, want %d", c.fds, p.socket, c.want)
		}
		for i, fd := range c.fds {
			if at := p.arrival(i); at > fd.Num || at == p.socket {
				t.Errorf("%v: fd %d arrives as %d", c.fds, fd.Num, at)
			}
		}
	}
}
