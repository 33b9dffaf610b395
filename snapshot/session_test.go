package snapshot

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/carry"
	"github.com/bpfckpt/bpfckpt/internal/dirty"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// What a program that is copied while it runs writes after the last round has room, though pre-copy foresaw next to
// nothing: else it would be encoded under the freeze.
func TestRoomForWhatIsWrittenLast(t *testing.T) {
	tr, err := dirty.New("")
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	s := newSession(0, Options{})
	s.track.tr = tr
	if err := s.reserve(nil, 0); err != nil {
		t.Fatal(err)
	}
	defer s.arena.free()
	if s.arena.take(restArena) == nil {
		t.Errorf("the arena has %d bytes, fewer than %d", len(s.arena.mem), restArena)
	}
}

// TestMemoryThatDoesNotFit takes a snapshot with no room for the copy at all: pages are written while the target stands
// still.
func TestMemoryThatDoesNotFit(t *testing.T) {
	tg := start(t, "vmas", "shared-anon")
	store := filepath.Join(t.TempDir(), "store")
	tx := begin(t, tg.pid(), Options{Dir: store, Stop: true, Source: "proc"})
	run(t, tx.Prepare)
	tx.s.arena.free()
	run(t, tx.Freeze, tx.Capture)
	if _, err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := image.Open(store)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	awaitState(t, tg.pid(), "T")
	sameMemory(t, r, &r.State().Processes[0])
	kill(t, tg.pid(), unix.SIGCONT)
	tg.finish()
}

// TestPanicLetsGo panics in the middle of a freeze.
func TestPanicLetsGo(t *testing.T) {
	tg := waiting(t)
	before := observe(t, tg.pid())
	func() {
		defer func() { _ = recover() }()
		tx := begin(t, tg.pid(), Options{Dir: filepath.Join(t.TempDir(), "store"), Source: "proc"})
		defer tx.Abort()
		run(t, tx.Prepare, tx.Freeze)
		panic("a slip")
	}()
	unchanged(t, tg.pid(), before)
	tg.finish()
}

func TestCopyStopsAtDeadline(t *testing.T) {
	var pl planner
	pl.add(&origin{space: 1, pid: 1}, part{size: model.PageSize})
	pl.jobs[0].buf = make([]byte, model.PageSize)
	wantFault(t, copyJobs(context.Background(), pl.jobs, time.Now().Add(-time.Second)), fault.MaxFreeze)
}

// TestUsageOfEarlierLives finds in the image what a restore noted for the process.
func TestUsageOfEarlierLives(t *testing.T) {
	tg := waiting(t)
	v, id := named(t, tg.pid())
	want := model.Usage{UTime: 3e9, STime: 1e9, Wall: 7e9}
	if err := carry.Put(v, id, carry.Record{Usage: want}); err != nil {
		t.Fatal(err)
	}
	_, r := snap(t, tg.pid(), Options{Source: "proc"})
	if got := r.State().Processes[0].Carried; got != want {
		t.Errorf("got %+v", got)
	}
	tg.finish()
}
