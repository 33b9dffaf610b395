package tracer

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// TestWatchSourceUnderChurn freezes a random workload again and again in the middle of its calls. Each time the table
// must equal the kernel's state, and what the watch makes of it must be what the iterators alone make.
func TestWatchSourceUnderChurn(t *testing.T) {
	for _, ring := range []int{0, smallRing} {
		t.Run("ring "+strconv.Itoa(ring), func(t *testing.T) {
			tg := start(t, "churn", "11", "100000000", "4", "alone")
			w := watchTarget(t, tg, WatchOptions{RingBytes: ring})
			tg.release(t)
			it := newIter(t)
			for round := range scale(20) {
				time.Sleep(10 * time.Millisecond)
				compareFrozen(t, tg, w, it, round%2 == 0)
				if t.Failed() {
					return
				}
			}
			s, err := w.Stats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", s)
		})
	}
}

// compareFrozen collects once with the watch and once with the iterators from a stopped process.
func compareFrozen(t *testing.T, tg *target, w *Watcher, it *Iter, prepare bool) {
	t.Helper()
	src := w.Source()
	if prepare {
		if err := src.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	g, thaw := tg.stop(t)
	defer thaw()
	have, err := src.Collect(t.Context(), []int{tg.pid}, g)
	if err != nil {
		t.Fatal(err)
	}
	diffs, err := w.Differences(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range diffs {
		if i == 5 {
			break
		}
		t.Error(d)
	}
	want, err := it.Collect(t.Context(), []int{tg.pid}, g)
	if err != nil {
		t.Fatal(err)
	}
	options := append(tolerant(), cmpopts.IgnoreFields(model.File{}, "Opened"),
		cmpopts.IgnoreFields(model.Process{}, "Libraries"),
		cmpopts.IgnoreFields(kstate.Collected{}, "Events", "Lost", "Drift"))
	if d := cmp.Diff(want, have, options...); d != "" {
		t.Errorf("iter (-) and watch (+) differ:\n%.4000s", d)
	}
}

// TestWatchSourceKeepsMappings shows that mappings are not read again when nothing changed them, and are when something
// did.
func TestWatchSourceKeepsMappings(t *testing.T) {
	tg := start(t, "vmas", "many")
	w := watchTarget(t, tg, WatchOptions{})
	src := w.Source()
	if err := src.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	g, thaw := tg.stop(t)
	defer thaw()
	began := time.Now()
	c, err := src.Collect(t.Context(), []int{tg.pid}, g)
	if err != nil {
		t.Fatal(err)
	}
	kept := time.Since(began)
	it := newIter(t)
	began = time.Now()
	if _, err := it.Collect(t.Context(), []int{tg.pid}, g); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d mappings: %v with a watch, %v without", len(c.Processes[0].VMAs), kept, time.Since(began))
	if c.Drift != 0 {
		t.Errorf("drift %d", c.Drift)
	}
	checkMaps(t, &c.Processes[0])
	checkBreakpoints(t, src, &c.Processes[0])
}

// checkBreakpoints requires that the probes the watch tells of are where it says, in the code of the process.
func checkBreakpoints(t *testing.T, src *WatchSource, p *model.Process) {
	t.Helper()
	points, err := src.Breakpoints(t.Context())
	if err != nil || len(points) == 0 && !guest() { // the programs of the emulated machine have no library with dlopen
		t.Fatalf("%d probes, %v", len(points), err)
	}
	for _, b := range points {
		seen := false
		for i := range p.VMAs {
			v := &p.VMAs[i]
			at := v.Start + uint64(b.Offset) - v.Offset
			if v.File.Dev != b.Dev || v.File.Ino != b.Ino || v.Prot&unix.PROT_EXEC == 0 ||
				uint64(b.Offset) < v.Offset || at >= v.End {
				continue
			}
			code := make([]byte, 1)
			th := ptrace.Thread{Pid: p.Pid, Tid: p.Pid}
			if err := th.Peek(at, code); err != nil {
				t.Fatal(err)
			}
			seen = code[0] == 0xcc
		}
		if !seen {
			t.Errorf("no breakpoint of %+v", b)
		}
	}
}

// TestOpenedAs shows that the table knows how a file was opened after it has lost its name.
func TestOpenedAs(t *testing.T) {
	tg := start(t, "opened")
	w := watchTarget(t, tg, WatchOptions{})
	tg.release(t)
	until(t, "the program is through", func() bool {
		_, err := os.Stat(filepath.Join(tg.dir, "done"))
		return err == nil
	})
	g, thaw := tg.stop(t)
	defer thaw()
	c, err := w.Source().Collect(t.Context(), []int{tg.pid}, g)
	if err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(tg.dir, name) }
	for num, want := range map[int]*model.Opened{
		50: {Given: "sub/../file", Resolved: path("file"), Flags: unix.O_RDWR | unix.O_CREAT, Mode: 0o640},
		51: {
			Given: "./below", Resolved: path("sub/below"), Flags: unix.O_RDWR | unix.O_CREAT | unix.O_APPEND,
			Mode: 0o604,
		},
		52: {Given: path("long"), Resolved: path("long"), Flags: unix.O_WRONLY | unix.O_CREAT, Mode: 0o600},
	} {
		i := slices.IndexFunc(c.Processes[0].FDs, func(fd model.FD) bool { return fd.Num == num })
		if i < 0 {
			t.Errorf("no descriptor %d", num)
		} else if d := cmp.Diff(want, c.Files[c.Processes[0].FDs[i].File-1].Opened); d != "" {
			t.Errorf("descriptor %d (-want +have)\n%s", num, d)
		}
	}
}

// TestTree follows children that are there when the watch begins and children of children that come later.
func TestTree(t *testing.T) {
	tg := start(t, "family")
	var r recorder
	w := watchTarget(t, tg, WatchOptions{OnEvent: r.on})
	s, err := w.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Groups != 3 {
		t.Errorf("%d processes at the start instead of 3", s.Groups)
	}
	tg.release(t)
	<-w.Done()
	for _, name := range []string{"grandchild 1", "grandchild 2"} {
		if !r.has(func(e *Event) bool { return e.Kind == "openat" && filepath.Base(e.Path) == name }) {
			t.Errorf("no event of %s", name)
		}
	}
	if status, ok := w.Exit(); !ok || !status.Signaled() || status.Signal() != 15 {
		t.Errorf("end %v %v", status, ok)
	}
}
