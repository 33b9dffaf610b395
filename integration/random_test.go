package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The property that holds check, snap and restore together: what snap accepts, restore brings back, and what cannot be
// brought back is refused while it still runs. The program draws its features by its seed (testdata/random); which of
// them have to be refused, and with which codes, its table says beforehand.
//
//	BPFCKPT_SEEDS=17-17 go test ./integration/ -run TestRandom/ -v        one program, or a range of them
//	BPFCKPT_RANDOM='vma locked,pipe full'       with that: programs of these features
//	BPFCKPT_EACH='timerfd' go test ./integration/ -run TestRandomEach     every feature whose name has this in it, alone
//
// `make random` runs 2,000 seeds and holds the numbers against what is promised.
func TestRandom(t *testing.T) {
	table := newRandomTable()
	first, last := randomSeeds(t)
	var names []string
	if chosen := os.Getenv("BPFCKPT_RANDOM"); chosen != "" {
		names = strings.Split(chosen, ",")
	}
	t.Run("seed", func(t *testing.T) {
		for seed := first; seed <= last; seed++ {
			t.Run(strconv.Itoa(seed), func(t *testing.T) {
				t.Parallel()
				table.run(t, seed, names...)
			})
		}
	})
	if testing.Verbose() {
		t.Log(table.String())
	}
	if last-first+1 >= randomPromise {
		table.holdAgainstPromise(t)
	}
}

// Each feature alone. It takes long, and finds faults with the least around them.
func TestRandomEach(t *testing.T) {
	part := os.Getenv("BPFCKPT_EACH")
	if part == "" {
		t.Log("nothing asked for: BPFCKPT_EACH=. tries all")
		return
	}
	table := newRandomTable()
	for i, f := range allFeatures(t) {
		if part != "." && !strings.Contains(f.name, part) {
			continue
		}
		t.Run(strings.ReplaceAll(f.name, "/", "|"), func(t *testing.T) {
			t.Parallel()
			table.run(t, i, f.name)
		})
	}
}

// randomSeeds are the seeds to run: those of the environment, or as many as CI has time for.
func randomSeeds(t *testing.T) (first, last int) {
	spec := os.Getenv("BPFCKPT_SEEDS")
	if spec == "" {
		return 1, 57
	}
	from, to, _ := strings.Cut(spec, "-")
	first, err := strconv.Atoi(from)
	if err == nil {
		last, err = strconv.Atoi(to)
	}
	if err != nil {
		t.Fatalf("BPFCKPT_SEEDS is %q, want FIRST-LAST", spec)
	}
	return first, last
}

// A feature is one kind of state in a program, and the codes it may be refused with; none means that it is supported.
type feature struct {
	name    string
	codes   []string
	lacking bool // this machine lacks it
}

// featuresOf reads the lines that the program prints before READY.
func featuresOf(out string) (list []feature) {
	for line := range strings.Lines(out) {
		rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "feature ")
		lacking := false
		if !ok {
			rest, lacking = strings.CutPrefix(strings.TrimSuffix(line, "\n"), "lacking ")
		}
		at := strings.LastIndex(rest, ": ")
		if !ok && !lacking || at < 0 {
			continue
		}
		f := feature{name: rest[:at], lacking: lacking}
		if codes := rest[at+2:]; codes != "-" {
			f.codes = strings.Split(codes, ",")
		}
		list = append(list, f)
	}
	return list
}

// allFeatures is the table of the program.
func allFeatures(t *testing.T) []feature {
	tg := prepare(t, program{name: "random list", argv: []string{"random", "list"}})
	tg.launch(nil)
	if status := tg.join(); status != 0 {
		t.Fatalf("random list: status %d", status)
	}
	return featuresOf(tg.read("out"))
}

// A trial is one program on its way.
type trial struct {
	*target
	t        *testing.T
	seed     int
	features []feature
	pids     []int    // of the whole tree, before it is saved
	checked  []string // the codes of check
	codes    []string // the codes of snap's refusal
	accepted bool
	fromProc bool // the state was read from /proc, which tells less
}

// run takes one program, of the given features if there are any, through check, snap --kill and restore.
func (table *randomTable) run(t *testing.T, seed int, names ...string) {
	p := program{name: "random", argv: append([]string{"random", strconv.Itoa(seed)}, names...)}
	want := randomControl(t, p)
	tr := &trial{target: prepare(t, p), t: t, seed: seed}
	defer func() {
		tr.sweep()
		table.add(tr, t.Failed())
		if t.Failed() {
			t.Logf("once more: BPFCKPT_SEEDS=%d-%d BPFCKPT_RANDOM='%s' go test ./integration/ -run TestRandom/ -v\nway: %s\n%s", seed, seed, strings.Join(names, ","), tr.way(),
				tr.read("out"))
		}
	}()
	tr.launch(nil)
	tr.waitReady()
	tr.features = featuresOf(tr.read("out"))
	tr.pids = descendants(tr.pid)
	tr.check()
	tr.save()
	if t.Failed() {
		return
	}
	if !tr.accepted {
		tr.goOn()
		same(t, "after it was refused", tr.finish(), want)
		return
	}
	same(t, "after the restore", tr.bringBack(), want)
}

// randomControl runs the program undisturbed.
func randomControl(t *testing.T, p program) result {
	tg := start(t, p)
	tg.goOn()
	r := tg.finish()
	if r.status != 0 || strings.Contains(r.out, "differs") {
		t.Fatalf("the control run: %s", r)
	}
	return r
}

// faults is what check and a refusal say in JSON.
type faults struct {
	Error    struct{ Code, Object, Cause string }
	Errors   []struct{ Code, Object, Cause string }
	Blockers []struct{ Code, Object, Cause string }
}

func (f faults) codes() (list []string) {
	for _, e := range append(f.Errors, f.Blockers...) {
		list = append(list, e.Code)
	}
	if len(list) == 0 && f.Error.Code != "" {
		list = append(list, f.Error.Code)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (tr *trial) check() {
	out, errs, status := tr.ckpt("check", strconv.Itoa(tr.pid), "--json")
	var f faults
	if err := json.Unmarshal([]byte(out), &f); err != nil || status != 0 && status != 4 {
		tr.t.Errorf("check: status %d, %v: %s%s", status, err, out, errs)
		return
	}
	tr.checked = f.codes()
	if (status == 0) != (len(tr.checked) == 0) {
		tr.t.Errorf("check: status %d with %v", status, tr.checked)
	}
}

// noBPF are the codes of what cannot be had from /proc alone: the remedy is a kernel with BPF iterators, the default
// source.
var noBPF = []string{"E_INJECT_STATE", "E_INJECT_ROOM", "E_INJECT_CODE", "E_PROCESS_STATE"}

// onlyStopped are the codes of what cannot be told while the program runs.
var onlyStopped = []string{"E_THREAD_STATE", "E_FD_STATE"}

// save tries to, and holds the answer against the table and against what check said.
func (tr *trial) save() {
	args := []string{"snap", strconv.Itoa(tr.pid), "--dir", "image", "--json", "--kill", "--compress", "fast"}
	if tr.fromProc = tr.seed%20 == 7; tr.fromProc {
		args = append(args, "--source", "proc")
	}
	out, errs, status := tr.ckpt(args...)
	tr.accepted = status == 0
	var f faults
	if status != 0 && json.Unmarshal([]byte(out), &f) != nil || status != 0 && status != 4 {
		tr.t.Errorf("snap: status %d: %s%s", status, out, errs)
		return
	}
	tr.codes = f.codes()
	if tr.fromProc && !tr.accepted && !slices.ContainsFunc(tr.codes,
		func(c string) bool { return !slices.Contains(noBPF, c) }) {
		return
	}
	tr.holdAgainstTable(out + errs)
	if tr.accepted && len(tr.checked) > 0 {
		tr.t.Errorf("check says %v, snap accepts", tr.checked)
	}
	for _, code := range tr.codes {
		if !slices.Contains(tr.checked, code) && !slices.Contains(onlyStopped, code) {
			tr.t.Errorf("snap refuses with %s, check says %v: %s", code, tr.checked, out)
		}
	}
}

func (tr *trial) holdAgainstTable(said string) {
	var allowed []string
	for _, f := range tr.features {
		if f.lacking || len(f.codes) == 0 {
			continue
		}
		allowed = append(allowed, f.codes...)
		if len(tr.codes) > 0 && !slices.ContainsFunc(f.codes,
			func(c string) bool { return !slices.Contains(onlyStopped, c) }) {
			continue // it is not stopped to find that, too
		}
		if !slices.ContainsFunc(f.codes, func(c string) bool { return slices.Contains(tr.codes, c) }) {
			tr.t.Errorf("%q is not refused with any of %v, but there is only %v: %s", f.name, f.codes, tr.codes, said)
		}
	}
	for _, code := range tr.codes {
		if !slices.Contains(allowed, code) {
			tr.t.Errorf("refused with %s, which nothing in the program is to be refused with: %s", code, said)
		}
	}
}

// ways are the ways back; the seed says which one.
var ways = []string{"plain", "lazy", "detach", "twice", "again", "lazy again"}

func (tr *trial) way() string { return ways[tr.seed/4%len(ways)] }

// bringBack restores the program, in the way of its seed, lets it go on, and tells how it ended.
func (tr *trial) bringBack() result {
	tr.t.Helper()
	tr.buried("snap --kill")
	way := tr.way()
	flags := []string{"image"}
	if strings.HasPrefix(way, "lazy") {
		flags = append(flags, "--lazy")
	}
	if way == "detach" {
		return tr.bringBackDetached()
	}
	tr.restore(flags...)
	if tr.ended() {
		return tr.finish()
	}
	switch {
	case way == "twice":
		tr.kill()
		tr.buried("the first restore")
		tr.restore(flags...)
	case strings.HasSuffix(way, "again"):
		if _, errs, status := tr.trySnap("--kill"); status != 0 {
			tr.t.Errorf("saved again: status %d: %s", status, errs)
			return tr.finish()
		}
		tr.buried("the second snap --kill")
		tr.restore("image")
	}
	tr.goOn()
	return tr.finish()
}

func (tr *trial) bringBackDetached() result {
	out, errs, status := tr.ckpt("restore", "image", "--detach", "--json")
	if status != 0 {
		tr.t.Errorf("restore --detach: status %d: %s%s", status, out, errs)
		return result{status: status}
	}
	tr.goOn()
	var ws syscall.WaitStatus
	tr.poll("the end", func() bool { // it came to us, a subreaper
		pid, _ := syscall.Wait4(tr.pid, &ws, syscall.WNOHANG, nil)
		return pid == tr.pid
	})
	return result{status: ws.ExitStatus(), out: tr.read("out"), files: map[string]string{}}
}

// buried waits until every process of the tree is gone, as they must be after --kill.
func (tr *trial) buried(what string) {
	tr.t.Helper()
	tr.join()
	for _, pid := range tr.pids {
		tr.poll("the death of "+strconv.Itoa(pid)+" by "+what, func() bool {
			var ws syscall.WaitStatus
			_, _ = syscall.Wait4(pid, &ws, syscall.WNOHANG, nil)
			return syscall.Kill(pid, 0) != nil
		})
	}
}

// sweep ends what is left of the program, which may be scattered: everything below us that has our directory as its
// working or root directory.
func (tr *trial) sweep() {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		left := tr.strays()
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			if pid == tr.cmd.Process.Pid && !tr.ended() {
				continue // it is waited for elsewhere
			}
			var ws syscall.WaitStatus
			_, _ = syscall.Wait4(pid, &ws, syscall.WNOHANG, nil)
		}
	}
	tr.t.Errorf("processes are left: %v", tr.strays())
}

func (tr *trial) strays() (list []int) {
	for _, p := range processes() {
		name, _, _ := strings.Cut(p, " ")
		if pid, err := strconv.Atoi(name); err == nil && tr.within(name) {
			list = append(list, pid)
		}
	}
	return list
}

// within tells whether a thread of the process has our directory: the first one may have ended.
func (tr *trial) within(pid string) bool {
	links, _ := filepath.Glob("/proc/" + pid + "/task/*/[cr][wo][do]*") // cwd and root
	return slices.ContainsFunc(links, func(link string) bool {
		to, err := os.Readlink(link)
		return err == nil && strings.HasPrefix(to, tr.dir)
	})
}

// randomTable counts what became of the features.
type randomTable struct {
	mu     sync.Mutex
	counts map[string]*featureCount
	codes  map[string]int
	failed []int
	total  int
	taken  int // accepted
}
