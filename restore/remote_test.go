package restore

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// A batch makes all of its calls however many they are, in their order.
func TestBatchOfManyCalls(t *testing.T) {
	p := helperOf(t, emptyTree(t, false))
	b := p.batch(p.lead)
	const calls = 2*maxRecords + 100
	for i := range calls { // each gives the mask of the one before
		want := exactly(uint64((i - 1) & 0o777))
		if i == 0 {
			want = nil
		}
		b.callWant(want, "set the mask", unix.SYS_UMASK, i&0o777)
	}
	for range 3 {
		b.call("copy much", unix.SYS_GETPID, inBytes(make([]byte, dataRoom/2)))
	}
	steps := p.j.steps
	if err := b.done(); err != nil {
		t.Fatal(err)
	}
	if p.j.steps == steps {
		t.Error("no step was counted")
	}
	b = p.batch(p.lead)
	b.callWant(exactly((calls-1)&0o777), "ask for the mask", unix.SYS_UMASK, 0)
	if err := b.done(); err != nil {
		t.Error(err)
	}
}

// The first call that fails is named, with a code that tells rights from all else, and none is made after it.
func TestBatchStopsAtAFailure(t *testing.T) {
	p := helperOf(t, emptyTree(t, false))
	mask := func(b *batch, n int, want func(int64) error) {
		b.callWant(want, "set the mask", unix.SYS_UMASK, n)
	}
	b := p.batch(p.lead)
	mask(b, 0o11, nil)
	b.call("close nothing", unix.SYS_CLOSE, 12345)
	mask(b, 0o22, nil)
	err := b.done()
	if !errors.Is(err, &fault.Error{Code: fault.RestoreStep}) || !errors.Is(err, unix.EBADF) ||
		!strings.Contains(err.Error(), "close nothing") {
		t.Errorf("a bad descriptor: %v", err)
	}
	b = p.batch(p.lead)
	mask(b, 0, exactly(0o11))
	b.callWant(except(unix.EBADF), "close nothing", unix.SYS_CLOSE, 12345)
	if err := b.done(); err != nil {
		t.Errorf("it went on behind the failure: %v", err)
	}
	b = p.batch(p.lead)
	mask(b, 0, func(int64) error { return unix.EPERM })
	if err := b.done(); !errors.Is(err, &fault.Error{Code: fault.RestoreRights}) {
		t.Errorf("no right to: %v", err)
	}
	told := fault.New(fault.OtherCPU, "x", "y")
	b = p.batch(p.lead)
	mask(b, 0, func(int64) error { return told })
	if err := b.done(); !errors.Is(err, told) || errors.Is(err, &fault.Error{Code: fault.RestoreStep}) {
		t.Errorf("a fault of its own: %v", err)
	}
}

// What does not fit, what is no argument, and a step that is to fail, do not reach the process.
func TestBatchThatIsNotMade(t *testing.T) {
	p := helperOf(t, emptyTree(t, false))
	first := p.batch(p.lead)
	first.callWant(ignore, "set the mask", unix.SYS_UMASK, 0o22)
	if err := first.done(); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(b *batch){
		"argument list too long":   func(b *batch) { b.call("too much", unix.SYS_GETPID, out(dataRoom+1)) },
		"argument of type float64": func(b *batch) { b.call("odd", unix.SYS_GETPID, 1.5) },
		"was told to fail":         func(b *batch) { b.p.j.fail = b.p.j.steps + 1 },
	} {
		b := p.batch(p.lead)
		b.callWant(ignore, "set the mask", unix.SYS_UMASK, 0o77)
		spoil(b)
		if err := b.done(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s: %v", want, err)
		}
		p.j.fail = 0
		b = p.batch(p.lead)
		b.callWant(exactly(0o22), "ask for the mask", unix.SYS_UMASK, 0o22)
		if err := b.done(); err != nil {
			t.Errorf("%s: %v", want, err)
		}
	}
}
