package restore

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
)

// Our limit of file sizes is as high as it may be while a restore runs, and what it was afterwards.
func TestOwnLimitIsPutBack(t *testing.T) {
	limit := func() (lim unix.Rlimit) {
		if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &lim); err != nil {
			t.Fatal(err)
		}
		return lim
	}
	was := limit()
	low := unix.Rlimit{Cur: 1 << 30, Max: was.Max}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &low); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_FSIZE, &was) }()
	j := newJournal(t)
	if err := raiseOwn(j); err != nil {
		t.Fatal(err)
	}
	if have := limit(); have.Cur != was.Max {
		t.Errorf("%d while it runs, want %d", have.Cur, was.Max)
	}
	j.close()
	if have := limit(); have != low {
		t.Errorf("%+v afterwards, want %+v", have, low)
	}
}

// A process can have what its image has although the limits of whoever restores it are lower, and gets those of the
// image last.
func TestLimitsOfAProcess(t *testing.T) {
	p := helperOf(t, emptyTree(t, false))
	var low unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	low.Cur = 10
	if err := unix.Prlimit(p.pid, unix.RLIMIT_NOFILE, &low, nil); err != nil {
		t.Fatal(err)
	}
	p.rec.FDs = []model.FD{{Num: 100}}
	if err := p.raiseLimits(); err != nil {
		t.Fatal(err)
	}
	var have unix.Rlimit
	if err := unix.Prlimit(p.pid, unix.RLIMIT_NOFILE, nil, &have); err != nil || have.Cur <= 100 {
		t.Errorf("%+v, %v", have, err)
	}
	for i := range p.rec.Limits {
		if err := unix.Prlimit(p.pid, i, nil, &have); err != nil {
			t.Fatal(err)
		}
		p.rec.Limits[i] = model.Limit{Cur: have.Cur, Max: have.Max}
	}
	p.rec.Limits[rlimitSigpending] = model.Limit{Cur: 1, Max: 2}
	p.rec.Pending = []model.SigInfo{siginfo(unix.SIGUSR1, 0, 0)} // more than one may be pending until all are
	pending := func() unix.Rlimit {
		if err := unix.Prlimit(p.pid, rlimitSigpending, nil, &have); err != nil {
			t.Fatal(err)
		}
		return have
	}
	b := p.batch(p.lead)
	if err := p.limit(b); err != nil {
		t.Fatal(err)
	}
	if err := b.done(); err != nil {
		t.Fatal(err)
	}
	if have := pending(); have.Cur <= 2 {
		t.Errorf("%+v before the signals are pending", have)
	}
	if err := p.limitPending(); err != nil {
		t.Fatal(err)
	}
	if have := pending(); have.Cur != 1 || have.Max != 2 {
		t.Errorf("%+v afterwards", have)
	}
}
