package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// listed returns the watches of the target that --list shows.
func (tg *target) listed() (watchers []int) {
	tg.t.Helper()
	out, errs, status := tg.ckpt("watch", "--list", "--json")
	var list struct {
		Watches []struct {
			Pid     int `json:"pid"`
			Watcher int `json:"watcher"`
		} `json:"watches"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil || status != 0 {
		tg.t.Fatalf("watch --list: status %d, %v: %s", status, err, errs)
	}
	for _, w := range list.Watches {
		if w.Pid == tg.pid {
			watchers = append(watchers, w.Watcher)
		}
	}
	return watchers
}

// watchProcesses returns the watches of the target that there are, listed or not.
func (tg *target) watchProcesses() (watchers []int) {
	args := fmt.Sprintf("\x00watch\x00%d\x00", tg.pid)
	for _, p := range processes() {
		pid, _, _ := strings.Cut(p, " ")
		if n, err := strconv.Atoi(pid); err == nil && strings.Contains(slurp("/proc/"+pid+"/cmdline"), args) {
			watchers = append(watchers, n)
		}
	}
	return watchers
}

// Of incremental snapshots that all begin at once, and find no watch, one starts it and the others use it; after a
// watch was killed the same.
func TestOneWatchForMany(t *testing.T) {
	t.Parallel()
	const many = 8
	tg := start(t, caseNamed(t, "trees/pipe-and-memory"))
	t.Cleanup(tg.endWatch)
	for round := range 2 {
		results := make([]snapped, many)
		var all sync.WaitGroup
		for i := range many {
			all.Go(func() {
				out, errs, status := tg.ckpt("snap", strconv.Itoa(tg.pid), "--dir", "image", "--incremental", "--json")
				if err := json.Unmarshal([]byte(out), &results[i]); status != 0 || err != nil {
					t.Errorf("snap: status %d, %v: %s", status, err, errs)
				}
			})
		}
		all.Wait()
		parents := map[string]int{}
		for _, s := range results {
			if parents[s.Parent]++; parents[s.Parent] > 1 || s.Parent == "" && round > 0 {
				t.Errorf("round %d: an image continues %q: %q", round, s.Parent, s.Notes)
			}
		}
		watchers := tg.watchProcesses()
		if listed := tg.listed(); len(watchers) != 1 || !slices.Equal(listed, watchers) {
			t.Fatalf("round %d: the watches are %d, listed %d", round, watchers, listed)
		}
		if err := syscall.Kill(watchers[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		reap(t, watchers[0]) // nobody else waits for it: it was started in the background
	}
	tg.goOn()
	if status := tg.join(); status != 0 {
		t.Errorf("the program ended with status %d", status)
	}
}

// insideScript is the first process of a pid namespace that shares /run with ours: it saves a process of its own twice,
// with a watch. The pids in two such namespaces are the same.
const insideScript = `
sleep 1000 </dev/null >/dev/null 2>&1 &
pid=$!
echo $pid >pid.new && mv pid.new pid
"$CKPT" snap $pid --dir image --incremental --json >first 2>first.err || exit 1
"$CKPT" watch --list --json >list || exit 2
>ready
until [ -e go ]; do sleep 0.05; done
"$CKPT" snap $pid --dir image --incremental --json >second 2>second.err || exit 3
"$CKPT" watch $pid --stop 2>stop.err || exit 4
`

// Programs that have the same pid in two namespaces, and are watched from inside at the same time, have nothing to do
// with each other.
func TestSamePidInTwoNamespaces(t *testing.T) {
	t.Parallel()
	var targets []*target
	for range 2 {
		tg := prepare(t, program{name: "inside"})
		cmd := exec.Command("env", "CKPT="+built.cmd, "unshare", "--fork", "--pid", "--mount-proc", "--kill-child",
			"sh", "-c", insideScript)
		tg.run(cmd, "out", "err")
		tg.pid = cmd.Process.Pid
		targets = append(targets, tg)
	}
	pids := map[string]int{}
	for _, tg := range targets {
		tg.poll("the first image", func() bool {
			_, err := os.Stat(tg.path("ready"))
			return tg.ended() || err == nil
		})
		pids[tg.read("pid")]++
		if n := strings.Count(tg.read("list"), `"watcher":`); n != 1 {
			t.Errorf("%d watches are listed inside: %s", n, tg.read("list"))
		}
	}
	if len(pids) != 1 {
		t.Errorf("the pids inside are %v", pids)
	}
	for _, tg := range targets {
		// Outside each is listed with the pid that it has here.
		inside := descendants(tg.pid)
		program := slices.IndexFunc(inside, func(pid int) bool {
			return strings.HasPrefix(slurp(fmt.Sprintf("/proc/%d/cmdline", pid)), "sleep\x001000")
		})
		if program < 0 {
			t.Fatalf("there is no program: %s%s", tg.read("err"), tg.read("first.err"))
		}
		here := *tg
		here.pid = inside[program]
		if w := here.listed(); len(w) != 1 {
			t.Errorf("%d watches of pid %d are listed", len(w), here.pid)
		}
	}
	for _, tg := range targets {
		if err := os.WriteFile(tg.path("go"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tg := range targets {
		if status := tg.join(); status != 0 {
			t.Errorf("status %d: %s%s%s", status, tg.read("first.err"), tg.read("second.err"), tg.read("stop.err"))
			continue
		}
		var first, second snapped
		for name, s := range map[string]*snapped{"first": &first, "second": &second} {
			if err := json.Unmarshal([]byte(tg.read(name)), s); err != nil {
				t.Fatal(err)
			}
		}
		if first.Parent != "" || second.Parent != first.ID || second.Table.Source != "watch" {
			t.Errorf("first %+v, second %+v", first, second)
		}
	}
}
