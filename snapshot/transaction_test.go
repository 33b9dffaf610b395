package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/dirty"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// begin begins a transaction that is aborted at the end of the test at the latest.
func begin(t *testing.T, pid int, o Options) *Transaction {
	t.Helper()
	tx, err := Begin(pid, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tx.Abort)
	return tx
}

// run goes through phases that must succeed.
func run(t *testing.T, phases ...func(context.Context) error) {
	t.Helper()
	for _, phase := range phases {
		if err := phase(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// all are the phases of a transaction, in order.
func (t *Transaction) all() []func(context.Context) error {
	commit := func(ctx context.Context) error {
		_, err := t.Commit(ctx)
		return err
	}
	return []func(context.Context) error{t.Prepare, t.Freeze, t.Capture, commit}
}

// held tells whether we trace the first thread of a process.
func held(t *testing.T, pid int) bool {
	t.Helper()
	st, err := procfs.Task(pid, pid).Status()
	if err != nil {
		t.Fatal(err)
	}
	return st.TracerPid != 0
}

// noImage requires that nothing of an image is in a store.
func noImage(t *testing.T, store string) {
	t.Helper()
	entries, err := os.ReadDir(store)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("%s is left in the store", e.Name())
	}
}

// A snapshot that is given up after any of its phases leaves the tree running, untraced and as it was, and no image.
// What was given up does not go on.
func TestAbortAfterEachPhase(t *testing.T) {
	for name, o := range map[string]Options{
		"plain": {}, "iter": {Source: "iter"}, "kill": {Source: "proc", Kill: true},
		"stop": {Source: "proc", Stop: true},
	} {
		for phases := range len((&Transaction{}).all()) {
			t.Run(fmt.Sprintf("%s/%d", name, phases), func(t *testing.T) {
				stands := phases == 2 || phases == 3 && (o.Kill || o.Stop)
				abortAfter(t, o, phases, stands)
			})
		}
	}
}

// abortAfter gives a snapshot up after some phases, when the tree stands still or not.
func abortAfter(t *testing.T, o Options, phases int, stands bool) {
	tg := waiting(t)
	before := observe(t, tg.pid())
	o.Dir = filepath.Join(t.TempDir(), "store")
	tx := begin(t, tg.pid(), o)
	run(t, tx.all()[:phases]...)
	if held(t, tg.pid()) != stands {
		t.Errorf("it should stand still: %v", stands)
	}
	tx.Abort()
	tx.Abort()
	unchanged(t, tg.pid(), before)
	requireFree(t, tg.pid())
	noImage(t, o.Dir)
	for i, phase := range tx.all() {
		if err := phase(t.Context()); !errors.Is(err, ErrOrder) {
			t.Errorf("phase %d after the end: %v", i, err)
		}
	}
	tg.finish()
}

// What a snapshot that was given up has taken of the knowledge of what was written is not missing in the next one.
func TestAbortForgetsTheBase(t *testing.T) {
	tr, err := dirty.New("")
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	tg := start(t, "idle", "busy")
	o := Options{Dir: filepath.Join(t.TempDir(), "store"), Incremental: true, Tracker: tr}
	first, _ := snap(t, tg.pid(), o)
	for phases := 1; phases < len((&Transaction{}).all()); phases++ {
		tx := begin(t, tg.pid(), o)
		run(t, tx.all()[:phases]...)
		tx.Abort()
		requireFree(t, tg.pid())
	}
	o.Stop = true
	res, r := snap(t, tg.pid(), o)
	if res.Parent != first.ID {
		t.Errorf("it continues %q instead of %s", res.Parent, first.ID)
	}
	awaitState(t, tg.pid(), "T")
	sameMemory(t, r, &r.State().Processes[0])
	kill(t, tg.pid(), unix.SIGCONT)
	tg.finish()
}

// A phase that is called out of its turn is an error and changes nothing.
func TestPhasesInOrder(t *testing.T) {
	tg := waiting(t)
	store := filepath.Join(t.TempDir(), "store")
	tx := begin(t, tg.pid(), Options{Dir: store, Source: "proc"})
	for turn := range tx.all() {
		for i, phase := range tx.all() {
			if i == turn {
				continue
			}
			if err := phase(t.Context()); !errors.Is(err, ErrOrder) {
				t.Errorf("phase %d instead of %d: %v", i, turn, err)
			}
		}
		run(t, tx.all()[turn])
	}
	tx.Abort()
	r, err := image.Open(store)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	tg.finish()
}

// A phase that fails has aborted.
func TestFailedPhaseAborts(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for phases := range len((&Transaction{}).all()) {
		tg := waiting(t)
		before := observe(t, tg.pid())
		store := filepath.Join(t.TempDir(), "store")
		tx := begin(t, tg.pid(), Options{Dir: store, Source: "proc", Kill: true})
		run(t, tx.all()[:phases]...)
		wantFault(t, tx.all()[phases](cancelled), fault.Interrupt)
		unchanged(t, tg.pid(), before)
		requireFree(t, tg.pid())
		noImage(t, store)
		tg.finish()
	}
}

// A tree that is to be killed stands still until its image is published.
func TestCommitKills(t *testing.T) {
	tg := waiting(t)
	tx := begin(t, tg.pid(), Options{Dir: filepath.Join(t.TempDir(), "store"), Source: "proc", Kill: true})
	run(t, tx.Prepare, tx.Freeze, tx.Capture)
	if !held(t, tg.pid()) {
		t.Error("it runs before it is killed")
	}
	res, err := tx.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if res.FreezeUS <= 0 || res.WallUS < res.FreezeUS || len(res.Pids) != 1 {
		t.Errorf("result %+v", res)
	}
	awaitState(t, tg.pid(), "Z")
}
