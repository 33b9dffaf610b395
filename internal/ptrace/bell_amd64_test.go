package ptrace

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// A signal that the program has pending is never the one that ends a chain.
func TestBell(t *testing.T) {
	winch, urg, child := sigBit(int(unix.SIGWINCH)), sigBit(int(unix.SIGURG)), sigBit(int(unix.SIGCHLD))
	for _, c := range []struct {
		name   string
		status procfs.Status
		want   unix.Signal
	}{
		{"nothing special", procfs.Status{}, unix.SIGWINCH},
		{"caught", procfs.Status{SigCgt: winch}, unix.SIGURG},
		{"pending in the process", procfs.Status{ShdPnd: winch, SigBlk: winch}, unix.SIGURG},
		{"pending in the thread", procfs.Status{SigPnd: winch | urg, SigBlk: winch | urg}, unix.SIGCHLD},
		{"blocked", procfs.Status{SigBlk: winch}, unix.SIGURG},
		{"all blocked", procfs.Status{SigBlk: ^uint64(0), ShdPnd: winch}, unix.SIGURG},
		{"all pending", procfs.Status{SigBlk: winch | urg | child, ShdPnd: winch | urg | child}, 0},
	} {
		if got := bell(&c.status); got != int(c.want) {
			t.Errorf("%s: signal %d, want %d", c.name, got, c.want)
		}
	}
}
