package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// endWatch ends the watch of the target, if there is one. It is good for cleaning up.
func (tg *target) endWatch() {
	tg.t.Helper()
	text, err := exec.Command(built.cmd, "watch", strconv.Itoa(tg.pid), "--stop").CombinedOutput()
	if err != nil && !strings.Contains(string(text), "E_NO_WATCH") {
		tg.t.Errorf("watch --stop: %v: %s", err, text)
	}
}

// awaitNoWatch waits until the watch of the target has ended by itself, also one that had only begun to start.
func (tg *target) awaitNoWatch() {
	tg.t.Helper()
	args := fmt.Sprintf("\x00watch\x00%d\x00", tg.pid)
	tg.poll("the end of the watch", func() bool {
		for _, p := range processes() {
			pid, _, _ := strings.Cut(p, " ")
			if strings.Contains(slurp("/proc/"+pid+"/cmdline"), args) {
				return false
			}
		}
		return true
	})
}

// Two incremental snapshots of a program that runs on, then its death and its return: the second image continues the
// first and shares its memory.
func TestIncrementalByWatch(t *testing.T) {
	for _, name := range []string{"threads", "python", "vmas/big", "trees/pipe-and-memory", "goroutines", "forked/generations", "forked/workers"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := caseNamed(t, name)
			if steps, ok := longer[name]; ok { // a watch takes its time to start
				p.name, p.argv = name+"-longer", append(slices.Clone(p.argv[:p.args]), steps)
			}
			if name == "threads" { // TestIncrementalLives has it, too
				p.name, p.argv = "threads-much-longer", append(slices.Clone(p.argv[:p.args]), "6000")
			}
			want := control(t, p)
			tg := start(t, p)
			t.Cleanup(tg.endWatch)
			before := viewOf(tg.pid)
			first := tg.snap("--incremental")
			second := tg.snap("--incremental")
			tg.endWatch()
			if after := viewOf(tg.pid); p.wait == waitsForGo {
				compareViews(t, "after the watch", after, before, nil)
			}
			if first.Parent != "" || second.Parent != first.ID || second.Table.Source != "watch" ||
				second.Tracking != first.Tracking {
				t.Errorf("first %+v, second %+v", first, second)
			}
			if second.Shared == 0 || name == "vmas/big" && second.Shared < 20**second.Pages {
				t.Errorf("the second image shares %d pages and has %d of its own", second.Shared, *second.Pages)
			}
			tg.interrupt()
			tg.goOn()
			same(t, name, tg.finish(), want)
		})
	}
}

// Each life is saved incrementally and followed by the next; a watch ends with its process, and the next life's images
// continue the same row.
func TestIncrementalLives(t *testing.T) {
	p := caseNamed(t, "threads")
	// three lives, with a watch begun in each
	p.name, p.argv = "threads-much-longer", append(p.argv[:p.args:p.args], "6000")
	want := control(t, p)
	tg := start(t, p)
	t.Cleanup(tg.endWatch)
	last := ""
	for i := range 3 {
		for range 2 {
			time.Sleep(30 * time.Millisecond)
			s := tg.snap("--incremental")
			if s.Parent != last {
				t.Errorf("life %d: the image continues %q, not %q: %q; the restore said %q",
					i, s.Parent, last, s.Notes, tg.read("restore.err"))
			}
			last = s.ID
		}
		tg.kill()
		tg.awaitNoWatch()
		tg.restore()
	}
	same(t, p.name, tg.finish(), want)
}

// A watch saves a program again and again; killed in the middle it goes on from the newest image, and old images went.
func TestWatchSavesEvery(t *testing.T) {
	p := caseNamed(t, "python")
	p.name, p.argv = "python-longer", append(p.argv[:p.args:p.args], longer["python"])
	want := control(t, p)
	tg := start(t, p)
	cmd := exec.Command(built.cmd, "watch", strconv.Itoa(tg.pid), "--every", "150ms", "--dir", "image", "--keep", "3",
		"--compress", "fast", "--json")
	cmd.Dir = tg.dir
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() //nolint:errcheck // its end is looked at below
	defer cmd.Process.Kill()
	taken, last, end := 0, "", map[string]any{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e map[string]any
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%v in %q", err, lines.Text())
		}
		switch e["event"] {
		case "snapshot":
			if taken > 0 && e["parent"] != last {
				t.Errorf("image %v continues %v, not %s", e["id"], e["parent"], last)
			}
			last = e["id"].(string)
			if taken++; taken == 5 {
				tg.kill()
			}
		case "snapshot_failed":
			if taken < 5 {
				t.Errorf("%s", lines.Text())
			}
		case "end":
			end = e
		}
	}
	if taken < 5 || end["ended"] != true || end["signal"] != "SIGKILL" {
		t.Errorf("%d snapshots, end %v", taken, end)
	}
	list, _, _ := tg.ckpt("log", "image", "--json")
	if n := strings.Count(list, "\n"); n > 3 {
		t.Errorf("%d images are left of those with --keep 3", n)
	}
	tg.restore()
	same(t, p.name, tg.finish(), want)
}

// run --every saves the command while it runs; after a kill -9 the same command goes on from the newest image.
func TestRunSavesEvery(t *testing.T) {
	p := caseNamed(t, "python")
	p.name, p.argv = "python-longer", append(p.argv[:p.args:p.args], longer["python"])
	want := control(t, p)
	tg := prepare(t, p)
	tg.run(exec.Command(built.cmd, append([]string{"run", "--dir", "image", "--every", "100ms", "--keep", "4", "--"},
		p.command()...)...), "out", "run.err")
	tg.pid = tg.cmd.Process.Pid
	tg.poll("images", func() bool {
		list, _, _ := tg.ckpt("log", "image", "--json")
		return strings.Count(list, "\n") >= 3
	})
	children := descendants(tg.pid)
	if len(children) != 2 {
		t.Fatalf("the command and its child are %v", children)
	}
	if err := syscall.Kill(children[1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status := tg.join(); status != 128+9 || !strings.Contains(tg.read("run.err"), "goes on from") {
		t.Errorf("status %d: %s", status, tg.read("run.err"))
	}
	again := exec.Command(built.cmd, append([]string{"run", "--dir", "image", "--"}, p.command()...)...)
	tg.run(again, "out", "run.err") // which empties both, and gets what was in them back
	same(t, p.name, tg.finish(), want)
}
