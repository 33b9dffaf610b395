package snapshot

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/carry"
	"github.com/bpfckpt/bpfckpt/internal/dirty"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// driven is the program of package dirty that does to its memory what it is told.
type driven struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func drive(t *testing.T) *driven {
	t.Helper()
	d := &driven{t: t, cmd: exec.Command(programs.Build(t, "../internal/dirty/testdata/writer.c"))}
	d.cmd.Dir = t.TempDir()
	err := os.WriteFile(filepath.Join(d.cmd.Dir, "content"), bytes.Repeat([]byte("content "), 1<<20), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if d.in, err = d.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.in.Close()
		_ = d.cmd.Wait()
	})
	// The kernel writes the number of the processor into the memory of its threads (rseq(2)), whenever one changes it.
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		t.Fatal(err)
	}
	for i, found := 0, false; i < 1024; i++ {
		if found {
			cpus.Clear(i)
		}
		found = found || cpus.IsSet(i)
	}
	if err := unix.SchedSetaffinity(d.pid(), &cpus); err != nil {
		t.Fatal(err)
	}
	d.out = bufio.NewReader(out)
	d.answer()
	return d
}

func (d *driven) pid() int { return d.cmd.Process.Pid }

func (d *driven) do(format string, args ...any) {
	d.t.Helper()
	if _, err := fmt.Fprintf(d.in, format+"\n", args...); err != nil {
		d.t.Fatal(err)
	}
	d.answer()
}

func (d *driven) answer() {
	d.t.Helper()
	if line, err := d.out.ReadString('\n'); line != "ok\n" {
		d.t.Fatalf("the program answers %q, %v", line, err)
	}
}

// settle waits until every process of the tree sleeps: its answer does not mean that it has stopped writing.
func (d *driven) settle() {
	d.t.Helper()
	tree, err := findTree(d.pid())
	if err != nil {
		d.t.Fatal(err)
	}
	for _, pid := range tree {
		awaitState(d.t, pid, "SZ")
	}
}

// run waits until the program has had the processor for that long, which on a busy machine is not how much time goes
// by.
func (d *driven) run(want time.Duration) {
	d.t.Helper()
	used := func() uint64 {
		st, err := procfs.Pid(d.pid()).Stat()
		if err != nil {
			d.t.Fatal(err)
		}
		return uint64(st.UTime + st.STime)
	}
	const tick = time.Second / 100
	begun := used()
	for end := time.Now().Add(patience); used() < begun+uint64(want/tick); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatal("the program does not run")
		}
	}
}

func (d *driven) step(r *rand.Rand) {
	d.t.Helper()
	s, a, n := r.IntN(12), r.IntN(40), 1+r.IntN(12)
	if r.IntN(4) == 0 {
		a = r.IntN(1500)
	}
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	switch r.IntN(12) {
	case 0, 1:
		if how := pick("anon", "file", "shared", "anon", "much"); how != "much" {
			d.do("map %d %d 0 %s", s, 1+r.IntN(60), how)
		} else { // page tables of it are walked by themselves
			d.do("map %d %d 0 anon", s, anonWalk/model.PageSize+r.IntN(500))
			d.do("write %d %d 300", s, r.IntN(1200))
		}
	case 2:
		d.do("remap %d 0 0 %s", s, pick("anon", "file"))
	case 3:
		d.do("unmap %d", s)
	case 4:
		d.do("resize %d %d", s, 1+r.IntN(80))
	case 5:
		d.do("move %d", s)
	case 6, 7:
		d.do("advise %d %d %d %s", s, a, n, pick("dontneed", "free", "guard"))
	case 8:
		d.do("protect %d 0 0 %s", s, pick("none", "ro", "rw"))
	case 9:
		d.do("%s", pick("fork", "brk 0 3"))
	default:
		d.do("write %d %d %d", s, a, n)
	}
}

// TestIncrementalIsFull takes an incremental image and a full one of programs that stand still, again and again: they
// hold the same pages.
func TestIncrementalIsFull(t *testing.T) {
	for _, name := range []string{dirty.UffdWP, dirty.SoftDirty, dirty.Compare} {
		tr, err := dirty.New(name)
		if err != nil {
			t.Logf("%v", err) // another kernel of the matrix has it
			continue
		}
		t.Cleanup(func() { _ = tr.Close() })
		for seed := range seeds(t) {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) { incrementalIsFull(t, tr, seed) })
		}
	}
}

// seeds is how many random programs each backend is put through: $BPFCKPT_SEEDS, or a few.
func seeds(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("BPFCKPT_SEEDS")
	if text == "" {
		return 3
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// incrementalIsFull mixes incremental snapshots with what comes between them in practice: a full one by the same
// tracker, one into another store, one that is given up in the middle.
func incrementalIsFull(t *testing.T, tr dirty.Tracker, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 11))
	d := drive(t)
	stores := []string{filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "other")}
	parents, shared := map[string]string{}, uint64(0)
	for i := range 7 {
		for range 12 {
			d.step(random)
		}
		d.settle()
		o := Options{Dir: stores[0], Incremental: true, Tracker: tr}
		switch kind := random.IntN(6); {
		case i < 2: // at least one that continues another
		case kind == 0:
			o.Incremental = false
		case kind == 1:
			o.Dir = stores[1]
		case kind == 2:
			ctx, cancel := context.WithCancel(t.Context())
			failing := o
			failing.Progress = func(int64, int64) { cancel() }
			if _, err := Snap(ctx, d.pid(), failing); err == nil {
				t.Fatal("it was not given up")
			}
		}
		res, inc := snap(t, d.pid(), o)
		_, full := snap(t, d.pid(), Options{})
		if res.Parent != parents[o.Dir] || res.Tracking != tr.Name() {
			t.Errorf("the parent is %q, not %q; tracking %q", res.Parent, parents[o.Dir], res.Tracking)
		}
		parents[o.Dir], shared = res.ID, shared+res.PagesShared
		requireSamePages(t, inc, full)
		if i == 6 { // and both are true
			for j := range full.State().Processes {
				if p := &full.State().Processes[j]; !p.Zombie {
					sameMemory(t, full, p)
				}
			}
		}
	}
	if shared == 0 {
		t.Error("no page was taken from a parent")
	}
}

// TestIncrementalOfAnother saves two processes into one store: neither image continues the other's, and the second says
// why.
func TestIncrementalOfAnother(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	a, b := drive(t), drive(t)
	trackers := map[*driven]dirty.Tracker{a: nil, b: nil} // as two watches have them
	for d := range trackers {
		tr, err := dirty.New("")
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		trackers[d] = tr
	}
	last := map[*driven]string{} // image of each
	for i, d := range []*driven{a, b, a, b} {
		res, _ := snap(t, d.pid(), Options{Dir: store, Incremental: true, Tracker: trackers[d]})
		if res.Parent != last[d] {
			t.Errorf("snapshot %d: parent %q, want %q", i, res.Parent, last[d])
		}
		notes, beside := strings.Join(res.Notes, "\n"), i == 1 // the first of b, in a store that has one of a
		if said := strings.Contains(notes, "the image is a full one"); said != beside || beside &&
			!strings.Contains(notes, last[a]) {
			t.Errorf("snapshot %d notes %q", i, notes)
		}
		last[d] = res.ID
	}
}

// TestIncrementalWithoutParent saves a restored process where the image that it was restored from is not: the image
// says so.
func TestIncrementalWithoutParent(t *testing.T) {
	a, b := drive(t), drive(t)
	store := filepath.Join(t.TempDir(), "store")
	v, id := named(t, b.pid())
	const from = "0123456789ab"
	if err := carry.Put(v, id, carry.Record{Image: from}); err != nil {
		t.Fatal(err)
	}
	first, _ := snap(t, a.pid(), Options{Dir: store, Incremental: true})
	if len(first.Notes) > 0 {
		t.Errorf("the first image of a store notes %q", first.Notes)
	}
	second, _ := snap(t, b.pid(), Options{Dir: store, Incremental: true})
	notes := strings.Join(second.Notes, "\n")
	if second.Parent != "" || !strings.Contains(notes, "a row of its own") || !strings.Contains(notes, from) {
		t.Errorf("parent %q, notes %q", second.Parent, notes)
	}
	third, _ := snap(t, b.pid(), Options{Dir: store, Incremental: true})
	if third.Parent != second.ID || len(third.Notes) > 0 {
		t.Errorf("parent %q, notes %q", third.Parent, third.Notes)
	}
	info := filepath.Join(store, "images", third.ID, "info")
	if err := os.Truncate(info, 10); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(store, "images", second.ID, "info"), 10); err != nil {
		t.Fatal(err)
	}
	fourth, _ := snap(t, b.pid(), Options{Dir: store, Incremental: true})
	notes = strings.Join(fourth.Notes, "\n")
	if fourth.Parent != "" || !strings.Contains(notes, "a row of its own") || !strings.Contains(notes, third.ID) {
		t.Errorf("parent %q, notes %q", fourth.Parent, notes)
	}
}

// TestPrecopyOfAWriter saves a program that writes and gives pages back all the time, by pre-copy, and leaves it
// stopped: a full image of it at the same stop, without pre-copy, is the same.
func TestPrecopyOfAWriter(t *testing.T) {
	if _, err := dirty.New(dirty.UffdWP); err != nil {
		t.Logf("%v", err) // then there is no pre-copy, and what is compared are two images of the same make
	}
	tr, err := dirty.New("")
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	d := drive(t)
	t.Cleanup(func() { _ = d.cmd.Process.Kill() })
	d.do("map 0 10000 0 anon")
	d.do("write 0 0 10000")
	d.do("churn 0")
	store := filepath.Join(t.TempDir(), "store")
	for _, o := range []Options{{Precopy: true}, {Incremental: true, Tracker: tr}, {Incremental: true, Tracker: tr}} {
		o.Dir, o.Stop, o.Compress = store, true, image.LevelFast
		res, got := snap(t, d.pid(), o)
		_, want := snap(t, d.pid(), Options{Compress: image.LevelFast})
		t.Logf("%d rounds, %d pages written, %d shared", res.Rounds, res.PagesWritten, res.PagesShared)
		if last := o.Incremental && res.PagesShared > 0; last && res.PagesWritten < 50 {
			t.Error("the program has not written")
		}
		if res.Rounds == 0 && tr.Name() == dirty.UffdWP {
			t.Error("no pre-copy")
		}
		requireSamePages(t, got, want)
		awaitState(t, d.pid(), "T")
		kill(t, d.pid(), unix.SIGCONT)
		awaitState(t, d.pid(), "RS")
		d.run(50 * time.Millisecond) // for it to write
	}
}

// requireSamePages requires that two images of one stopped tree have the same content.
func requireSamePages(t *testing.T, got, want *image.Reader) {
	t.Helper()
	a, b := got.State().Processes, want.State().Processes
	if len(a) != len(b) {
		t.Fatalf("%d processes, not %d", len(a), len(b))
	}
	for i := range b {
		if a[i].Zombie {
			continue
		}
		requireSameSpace(t, fmt.Sprintf("process %d", i), load(t, got, a[i].Space), load(t, want, b[i].Space))
		for _, v := range a[i].VMAs {
			if strings.Contains(strings.Join(v.Flags, " "), "uw") {
				t.Errorf("mapping %x is stored as tracked", v.Start)
			}
		}
	}
	for i := range want.State().Shmems {
		requireSameSpace(t, fmt.Sprintf("object %d", i), load(t, got, got.State().Shmems[i].Space),
			load(t, want, want.State().Shmems[i].Space))
	}
}

func requireSameSpace(t *testing.T, what string, got, want content) {
	t.Helper()
	if len(got.pages) != len(want.pages) {
		t.Errorf("%s: %d pages, not %d", what, len(got.pages), len(want.pages))
	}
	for addr, page := range want.pages {
		if g, ok := got.pages[addr]; !ok || !bytes.Equal(g, page) {
			t.Errorf("%s: page %x differs (there: %v)", what, addr, ok)
		}
	}
}
