package integration

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/model"
)

// regionCase is a case of the program regions, under a watch and at its beginning.
func regionCase(t *testing.T, name, which string) *target {
	t.Helper()
	tg := start(t, program{name: name + " " + which, argv: []string{name, which}})
	tg.watchIt()
	tg.goOn()
	return tg
}

func (tg *target) watchIt() {
	tg.t.Helper()
	tg.t.Cleanup(tg.endWatch)
	if _, errs, status := tg.ckpt("watch", strconv.Itoa(tg.pid), "--background"); status != 0 {
		tg.t.Fatalf("watch: status %d: %s", status, errs)
	}
}

// says waits for a line of the program.
func (tg *target) says(line string) {
	tg.t.Helper()
	tg.poll(line, func() bool { return strings.Contains("\n"+tg.read("out"), "\n"+line+"\n") })
}

func (tg *target) touch(name string) {
	tg.t.Helper()
	if err := os.WriteFile(tg.path(name), nil, 0o644); err != nil {
		tg.t.Fatal(err)
	}
}

// finishes lets the program end, and holds its last line against OK.
func (tg *target) finishes() {
	tg.t.Helper()
	tg.touch("done")
	if r := tg.finish(); r.status != 0 || !strings.HasSuffix(r.out, "\nOK\n") {
		tg.t.Errorf("%s", r)
	}
}

// refuses fails the test unless a snapshot is refused with a code, and the program runs on untraced.
func (tg *target) refuses(status int, code string, flags ...string) string {
	tg.t.Helper()
	_, errs, have := tg.ckpt(append([]string{"snap", strconv.Itoa(tg.pid), "--dir", "image"}, flags...)...)
	if have != status || !strings.Contains(errs, code+": ") {
		tg.t.Errorf("snap: status %d, want %d and %s: %s", have, status, code, errs)
	}
	if !tg.running() {
		tg.t.Errorf("the program does not run on: %s", slurp(fmt.Sprintf("/proc/%d/status", tg.pid)))
	}
	if head, err := image.Open(tg.path("image")); err == nil {
		head.Close()
		tg.t.Error("there is an image")
	}
	return errs
}

// pairsIn reads the counters of the program from an image.
func (tg *target) pairsIn(id string) (pairs [][2]uint64) {
	tg.t.Helper()
	_, text, _ := strings.Cut(tg.read("out"), "pairs ")
	text, _, _ = strings.Cut(text, "\n")
	at, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		tg.t.Fatal(err)
	}
	r, err := image.Open(tg.path("image") + "@" + id)
	if err != nil {
		tg.t.Fatal(err)
	}
	defer r.Close()
	page := make([]byte, model.PageSize)
	space := r.State().Processes[0].Space
	err = r.LoadParts(tg.t.Context(), space, []model.Range{{Start: at, End: at + model.PageSize}}, 1,
		func(_ uint64, data []byte) error {
			copy(page, data)
			return nil
		})
	if err != nil {
		tg.t.Fatal(err)
	}
	for i := range 8 {
		pairs = append(pairs, [2]uint64{
			binary.LittleEndian.Uint64(page[128*i:]),
			binary.LittleEndian.Uint64(page[128*i+8:]),
		})
	}
	return pairs
}

// TestRegions takes many snapshots of programs that are in regions most of the time, and looks into each image: inside,
// the counters of a pair differ.
func TestRegions(t *testing.T) {
	for _, c := range []struct {
		name, which string
		threads     int
	}{{"regions", "often", 1}, {"regions", "threads", 2}, {"regions", "nested", 1}, {"regions-static", "often", 1}} {
		t.Run(c.name+" "+c.which, func(t *testing.T) {
			t.Parallel()
			tg := regionCase(t, c.name, c.which)
			tg.says("at it")
			moved := map[uint64]bool{}
			for i := range 20 {
				var flags []string
				if i%2 == 1 {
					flags = []string{"--incremental"}
				}
				s := tg.snap(flags...)
				pairs := tg.pairsIn(s.ID)
				for n, p := range pairs {
					if p[0] != p[1] {
						t.Errorf("image %d was taken in a region: the counters of thread %d are %d and %d", i, n, p[0],
							p[1])
					}
				}
				moved[pairs[0][0]] = true
			}
			if len(moved) < 5 {
				t.Errorf("the program hardly did anything: %v", moved)
			}
			tg.interrupt()
			tg.finishes()
		})
	}
}

// TestRegionWithoutEnd: a program that stays inside is not saved, and told of; --ignore-regions saves it all the same.
func TestRegionWithoutEnd(t *testing.T) {
	t.Parallel()
	tg := regionCase(t, "regions", "never")
	tg.says("inside")
	errs := tg.refuses(1, "E_HELD")
	if !strings.Contains(errs, fmt.Sprintf("thread %d of pid %d", tg.pid, tg.pid)) ||
		!strings.Contains(errs, "in a region (2, ") {
		t.Errorf("which thread, and how deep: %s", errs)
	}
	cmd := exec.Command(built.cmd, "snap", strconv.Itoa(tg.pid), "--dir", tg.path("image"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// A socket is its connection to the watch: by then it listens to signals, and asleep it may be before.
	tg.poll("the wait", func() bool {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", cmd.Process.Pid))
		return slices.ContainsFunc(fds, func(fd string) bool {
			link, _ := os.Readlink(fd)
			return strings.HasPrefix(link, "socket:")
		})
	})
	_ = cmd.Process.Signal(unix.SIGINT)
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("an interrupt during the wait: %v", cmd.ProcessState)
	}
	tg.snap("--ignore-regions")
	tg.interrupt()
	tg.finishes()
}

// TestRegionsUnseen: nobody sees the regions of a program without a watch.
func TestRegionsUnseen(t *testing.T) {
	t.Parallel()
	tg := start(t, program{name: "regions", argv: []string{"regions", "often"}})
	tg.refuses(4, "E_REGIONS")
	tg.refuses(4, "E_REGIONS", "--source", "proc")
	if out, _, status := tg.ckpt("check", strconv.Itoa(tg.pid)); status != 4 || !strings.Contains(out, "E_REGIONS") {
		t.Errorf("check: status %d: %s", status, out)
	}
	tg.goOn()
	tg.says("at it")
	tg.watchIt()
	if out, _, status := tg.ckpt("check", strconv.Itoa(tg.pid)); status != 0 {
		t.Errorf("check with a watch: status %d: %s", status, out)
	}
	if notes := tg.notes(); !strings.Contains(notes, "was running when the watch began to see them") {
		t.Errorf("a late watch does not tell: %s", notes)
	}
	tg.finishes()
}

// notes takes a snapshot and returns its remarks.
func (tg *target) notes() string {
	tg.t.Helper()
	out, errs, status := tg.ckpt("snap", strconv.Itoa(tg.pid), "--dir", "image", "--json")
	var r struct {
		Notes []string `json:"notes"`
	}
	if status != 0 || json.Unmarshal([]byte(out), &r) != nil {
		tg.t.Fatalf("snap: status %d: %s%s", status, out, errs)
	}
	return strings.Join(r.Notes, "\n")
}

// TestRegionsEndWithTheirThread: an end and an execve take a thread out of its regions, and what the watch saw from its
// beginning is certain.
func TestRegionsEndWithTheirThread(t *testing.T) {
	t.Run("exit", func(t *testing.T) {
		t.Parallel()
		tg := regionCase(t, "regions", "exits")
		tg.says("outside")
		tg.snap()
		tg.finishes()
	})
	t.Run("exec", func(t *testing.T) {
		t.Parallel()
		tg := regionCase(t, "regions", "exec")
		tg.says("executed")
		if notes := tg.notes(); notes != "" {
			t.Errorf("the watch saw all of it, and says: %s", notes)
		}
		tg.interrupt()
		tg.finishes()
	})
	t.Run("fork", func(t *testing.T) {
		t.Parallel()
		tg := regionCase(t, "regions", "fork")
		tg.says("parent outside")
		child := descendants(tg.pid)[1]
		if errs := tg.refuses(1, "E_HELD"); !strings.Contains(errs, fmt.Sprintf("pid %d: ", child)) {
			t.Errorf("pid %d is inside: %s", child, errs)
		}
		tg.touch("child")
		tg.says("child outside")
		tg.snap()
		tg.finishes()
	})
}

// TestRegionsOfALibrary: one that is opened later has regions of its own.
func TestRegionsOfALibrary(t *testing.T) {
	t.Parallel()
	tg := regionCase(t, "regions", "library")
	tg.says("loaded")
	tg.poll("the probes of the library", func() bool {
		out, _, _ := tg.ckpt("watch", "--list", "--json")
		var list struct {
			Watches []struct {
				Pid   int `json:"pid"`
				Table struct {
					Regions int `json:"regions"`
				} `json:"table"`
			} `json:"watches"`
		}
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatal(err)
		}
		for _, w := range list.Watches {
			if w.Pid == tg.pid {
				return w.Table.Regions == 4
			}
		}
		return false
	})
	tg.touch("enter")
	tg.says("inside")
	tg.refuses(1, "E_HELD")
	tg.touch("leave")
	tg.says("outside")
	tg.snap()
	tg.interrupt()
	tg.finishes()
}

// TestRunSeesRegions: run watches a command that marks regions from its first instruction.
func TestRunSeesRegions(t *testing.T) {
	t.Parallel()
	tg := prepare(t, program{name: "run regions", argv: []string{"regions", "often"}})
	tg.touch("go")
	command := []string{"run", "--dir", "image", "--", filepath.Join(built.dir, "regions"), "often"}
	tg.run(exec.Command(built.cmd, command...), "out", "err")
	tg.pid = tg.cmd.Process.Pid
	tg.says("at it")
	_ = tg.cmd.Process.Signal(unix.SIGINT)
	if status := tg.join(); status != 130 {
		t.Fatalf("status %d: %s", status, tg.read("err"))
	}
	if errs := tg.read("err"); strings.Contains(errs, "was running when the watch began to see them") {
		t.Errorf("it was not: %s", errs)
	}
	r, err := image.Open(tg.path("image"))
	if err != nil {
		t.Fatal(err)
	}
	id := r.Info().ID
	r.Close()
	for n, p := range tg.pairsIn(id) {
		if p[0] != p[1] {
			t.Errorf("the image was taken in a region: the counters of thread %d are %d and %d", n, p[0], p[1])
		}
	}
	tg.touch("done")
	tg.run(exec.Command(built.cmd, command...), "again.out", "err")
	if status := tg.join(); status != 0 || !strings.HasSuffix(tg.read("out")+tg.read("again.out"), "OK\n") {
		t.Errorf("gone on, status %d: %s%s", status, tg.read("again.out"), tg.read("err"))
	}
}

// TestRegionsWatchKilled kills the watch with -9 while it waits for a region to end, and while it sets its probes: the
// program runs on as if nothing had been.
func TestRegionsWatchKilled(t *testing.T) {
	t.Parallel()
	tg := start(t, program{name: "regions", argv: []string{"regions", "often"}})
	tg.goOn()
	tg.says("at it")
	for i := range 8 {
		watch := exec.Command(built.cmd, "watch", strconv.Itoa(tg.pid), "--json")
		if err := watch.Start(); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			tg.poll("the watch", func() bool {
				out, _, _ := tg.ckpt("watch", "--list", "--json")
				return strings.Contains(out, fmt.Sprintf("\"pid\":%d,", tg.pid))
			})
		}
		snap := exec.Command(built.cmd, "snap", strconv.Itoa(tg.pid), "--dir", tg.path("image"))
		if err := snap.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(10+17*i) * time.Millisecond)
		_ = watch.Process.Kill()
		_ = watch.Wait() // it was killed
		_ = snap.Wait()  // it may have been in time, or without a watch
		if !tg.running() {
			t.Fatalf("after %d: %s", i, slurp(fmt.Sprintf("/proc/%d/status", tg.pid)))
		}
	}
	tg.finishes()
}
