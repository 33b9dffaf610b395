package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// verdict is what became of a program in one trial.
type verdict int

const (
	passed  verdict = iota
	refused         // it could not be saved, was told so, and ran on to the right end
	failed
	early // it ended before it could be interrupted
)

// result is a verdict with what there is to say about it.
type result struct {
	verdict verdict
	detail  string // of refused: the codes; of failed: what went wrong
	saved   saved  // of the snapshot that the program ran on after
}

// saved is what a snapshot cost.
type saved struct {
	processes int
	freeze    time.Duration
	memory    int64 // bytes
}

func (r result) String() string {
	switch r.verdict {
	case passed:
		return "ok"
	case refused:
		return "refused " + r.detail
	}
	return "FAILED: " + r.detail
}

func failure(format string, args ...any) result {
	return result{verdict: failed, detail: fmt.Sprintf(format, args...)}
}

// mode is one way to interrupt a program.
type mode struct {
	name, what string
	share      float64 // of the processor time it needs, at which it is interrupted
	try        func(*trial, context.Context) result
}

var modes = []mode{
	{"--kill", "`snap --kill` in the middle of the work, then `restore`", 0.45, (*trial).kill},
	{"--lazy", "the same with `restore --lazy`", 0.55, (*trial).killLazy},
	{"run --every", "`run --every 500ms`, later kill -9 of the program, then the same `run` again", 0.6, (*trial).runEvery},
	{"runs on", "`snap`, twice, of the program that runs on", 0.3, (*trial).runsOn},
}

// trial is one run of a program that is interrupted.
type trial struct {
	*subject
	share  float64
	change bool     // the program's change has been made
	old    []string // images from before the change
}

// interrupt interrupts the program in one way. A program that ends too early is interrupted earlier: the machine may
// have got faster.
func (s *subject) interrupt(ctx context.Context, m mode) result {
	share := m.share
	for range 4 {
		if err := s.fresh(); err != nil {
			return failure("%v", err)
		}
		r := m.try(&trial{subject: s, share: share}, ctx)
		s.sweep()
		if r.verdict == failed {
			r = s.suspect(ctx, r)
		}
		if r.verdict != early {
			return r
		}
		share /= 2
	}
	return failure("it ended each time before it could be interrupted")
}

// suspect looks whether the program is at fault: whether it writes something else each time.
func (s *subject) suspect(ctx context.Context, r result) result {
	defer s.sweep()
	if err := s.fresh(); err != nil {
		return r
	}
	c, err := s.spawn("again", s.argv()...)
	if err != nil {
		return r
	}
	if diff := s.compare(ctx, c); diff != "" {
		r.detail += "; without interruption too: " + diff
	}
	return r
}

// compare waits for the end of what c stands for, and compares what is there with what there should be.
func (s *subject) compare(ctx context.Context, c *child) string {
	status, err := c.wait(ctx, s.limit())
	if err != nil {
		return err.Error()
	}
	files, err := digest(s.path("run"))
	if err != nil {
		return err.Error()
	}
	return outcome{status, files}.differs(s.want)
}

// kill saves the program with snap --kill and restores it.
func (t *trial) kill(ctx context.Context) result { return t.killAnd(ctx) }

// killLazy does it with restore --lazy.
func (t *trial) killLazy(ctx context.Context) result { return t.killAnd(ctx, "--lazy") }

func (t *trial) killAnd(ctx context.Context, flags ...string) result {
	c, err := t.spawn("program", t.argv()...)
	if err != nil {
		return failure("%v", err)
	}
	if !t.reach(ctx, c, c.pid(), t.share) {
		return t.unreached(ctx, c)
	}
	if r, ok := t.snap(ctx, c, "--kill"); !ok {
		return r
	}
	if _, err := c.wait(ctx, t.limit()); err != nil {
		return failure("after snap --kill: %v", err)
	}
	r, err := t.spawn("restore", slices.Concat([]string{t.lab.command, "restore", t.path("store")}, flags)...)
	if err != nil {
		return failure("%v", err)
	}
	if diff := t.compare(ctx, r); diff != "" {
		return failure("restored: %s: %s %s", diff, t.said("restore.err"), t.said("stderr"))
	}
	return result{}
}

// runsOn saves the program twice while it runs on.
func (t *trial) runsOn(ctx context.Context) result {
	c, err := t.spawn("program", t.argv()...)
	if err != nil {
		return failure("%v", err)
	}
	if !t.reach(ctx, c, c.pid(), t.share) {
		return t.unreached(ctx, c)
	}
	r, ok := t.snap(ctx, c)
	if !ok {
		return r
	}
	if t.reach(ctx, c, c.pid(), 2*t.share) {
		if again, ok := t.snap(ctx, c); !ok && again.verdict != early {
			return again
		}
	}
	if diff := t.compare(ctx, c); diff != "" {
		return failure("it ran on: %s: %s", diff, t.said("stderr"))
	}
	return r
}

// runEvery lets run save the program, kills it, and goes on from the last image.
func (t *trial) runEvery(ctx context.Context) result {
	argv := slices.Concat([]string{
		t.lab.command, "run", "--json", "--every", "500ms", "--keep", "3", "--dir",
		t.path("store"), "--",
	}, t.argv())
	c, err := t.spawn("run", argv...)
	if err != nil {
		return failure("%v", err)
	}
	root := t.rootOf(ctx, c)
	if root == 0 || !t.reach(ctx, c, root, t.share) || !t.awaitImage(ctx, c) {
		return t.neverSaved(ctx, c)
	}
	for _, p := range tree(root) {
		if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && p.pid == root {
			return result{verdict: early}
		}
	}
	if status, err := c.wait(ctx, t.limit()); err != nil || status != 128+int(syscall.SIGKILL) {
		return failure("run whose program was killed: status %d, %v: %s", status, err, t.said("run.err"))
	}
	again, err := t.spawn("again", argv...)
	if err != nil {
		return failure("%v", err)
	}
	if diff := t.compare(ctx, again); diff != "" {
		return failure("run again: %s: %s %s", diff, t.said("again.err"), t.said("stderr"))
	}
	var told struct {
		From string `json:"resumed_from"`
	}
	b, err := os.ReadFile(t.path("again.out"))
	if err == nil {
		err = json.Unmarshal(b, &told)
	}
	if err != nil || told.From == "" {
		return failure("run again did not go on from an image (%v): %s", err, b)
	}
	return result{}
}

// unreached judges a trial in which the program was not there at the moment of the interruption.
func (t *trial) unreached(ctx context.Context, c *child) result {
	if ctx.Err() != nil {
		return failure("%v", ctx.Err())
	}
	if !c.ended() {
		return failure("it hangs without a checkpoint: %s", t.said("stderr"))
	}
	return result{verdict: early}
}

// neverSaved judges a run without an image: a refusal if run said so and the program came to its end.
func (t *trial) neverSaved(ctx context.Context, c *child) result {
	diff := t.compare(ctx, c)
	b, _ := os.ReadFile(t.path("run.err"))
	codes := codesIn(string(b))
	switch {
	case diff != "":
		return failure("run without an image: %s: %s", diff, tail(b))
	case len(codes) > 0:
		return result{verdict: refused, detail: strings.Join(codes, " ")}
	}
	return result{verdict: early}
}

// poll is how often the state of a program is looked at.
const poll = 20 * time.Millisecond

// rootOf is the program below a run, 0 if there is none.
func (t *trial) rootOf(ctx context.Context, run *child) int {
	for !run.ended() && ctx.Err() == nil {
		for _, p := range tree(run.pid()) {
			if p.parent == run.pid() && exe(p.pid) != t.lab.command {
				return p.pid
			}
		}
		time.Sleep(poll)
	}
	return 0
}

// reach waits until the processes have used this share of the processor time they need. On the way there the program's
// change is made.
func (t *trial) reach(ctx context.Context, c *child, root int, share float64) bool {
	goal := time.Duration(share * float64(t.cpu))
	for begun := time.Now(); !c.ended() && ctx.Err() == nil && time.Since(begun) < t.limit(); time.Sleep(poll) {
		used := cpuOf(root)
		if used >= goal/2 && t.meanwhile != "" && !t.change {
			t.change, t.old = true, t.images(ctx)
			cmd := exec.CommandContext(ctx, "bash", "-euc", t.meanwhile)
			cmd.Dir, cmd.Env = t.path("in"), t.env()
			if err := cmd.Run(); err != nil {
				return false
			}
		}
		if used >= goal {
			return true
		}
	}
	return false
}

// awaitImage waits for an image from after the program's change, if there is one.
func (t *trial) awaitImage(ctx context.Context, c *child) bool {
	for ; !c.ended() && ctx.Err() == nil; time.Sleep(10 * poll) {
		for _, id := range t.images(ctx) {
			if !slices.Contains(t.old, id) {
				return true
			}
		}
	}
	return false
}

// images lists the ids of the images in the store.
func (t *trial) images(ctx context.Context) []string {
	out, err := exec.CommandContext(ctx, t.lab.command, "log", "--json", t.path("store")).Output()
	if err != nil {
		return nil // there is no store yet
	}
	var ids []string
	for line := range strings.Lines(string(out)) {
		var image struct {
			ID string `json:"id"`
		}
		if json.Unmarshal([]byte(line), &image) == nil && image.ID != "" {
			ids = append(ids, image.ID)
		}
	}
	return ids
}

// snap saves the program. If it is not saved the second value is false, and the first one judges the trial.
func (t *trial) snap(ctx context.Context, c *child, flags ...string) (result, bool) {
	args := slices.Concat([]string{"snap", strconv.Itoa(c.pid()), "--dir", t.path("store"), "--json"}, flags)
	ctx, cancel := context.WithTimeout(ctx, t.limit())
	defer cancel()
	cmd := exec.CommandContext(ctx, t.lab.command, args...)
	cmd.Dir = t.path("run")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return failure("snap: %v", err), false
	}
	codes := codesIn(string(out))
	switch {
	case err == nil:
	case slices.ContainsFunc(codes, func(c string) bool { return slices.Contains(gone, c) }):
		return result{verdict: early}, false
	case exit.ExitCode() == 4:
		if diff := t.compare(ctx, c); diff != "" {
			return failure("refused, and then %s: %s: %s", diff, tail(out), t.said("stderr")), false
		}
		return result{verdict: refused, detail: strings.Join(codes, " ")}, false
	default:
		return failure("snap: status %d: %s %s", exit.ExitCode(), tail(out), tail(exit.Stderr)), false
	}
	var told struct {
		Pids   []int `json:"pids"`
		Freeze int64 `json:"freeze_us"`
		Raw    int64 `json:"bytes_raw"`
	}
	if err := json.Unmarshal(out, &told); err != nil {
		return failure("snap --json: %v", err), false
	}
	return result{saved: saved{len(told.Pids), time.Duration(told.Freeze) * time.Microsecond, told.Raw}}, true
}

// gone are the codes of a program that ended before it could be saved.
var gone = []string{"E_NO_SUCH_PID", "E_TARGET_GONE", "E_ZOMBIE"}

var code = regexp.MustCompile(`\bE_[A-Z0-9_]+\b`)

// codesIn are the error codes in a text, each once.
func codesIn(text string) []string {
	list := code.FindAllString(text, -1)
	slices.Sort(list)
	return slices.Compact(list)
}
