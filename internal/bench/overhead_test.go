package bench

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// fakeWatch counts what is watched.
type fakeWatch struct{ begun, ended int }

func (f *fakeWatch) watch(_ context.Context, pid int) (func() error, error) {
	if pid <= 0 {
		return nil, errors.New("no pid")
	}
	f.begun++
	return func() error { f.ended++; return nil }, nil
}

func TestOverheadOfCalls(t *testing.T) {
	var w fakeWatch
	p, err := OverheadPlan(t.Context(), w.watch, OverheadOptions{
		Dir: t.TempDir(), Only: []string{"open+close", "getppid"}, Sample: 100 * time.Microsecond,
	})
	rep := runPlan(t, p, err)
	if w.begun != w.ended || w.begun != 4*3 {
		t.Errorf("%d watches begun, %d ended", w.begun, w.ended)
	}
	it := find(t, rep, "open+close", watchIt, "round")
	if it.Target == nil || it.Target.Of != OfExtra || it.Target.Per != 2 || it.Stats.Median < 50 {
		t.Errorf("got %+v", it)
	}
	if row := find(t, rep, "getppid", watchOther, "round"); row.Target == nil || row.Target.Max != unwatchedMaxNS {
		t.Errorf("got %+v", row)
	}
	if row := find(t, rep, "getppid", watchIt, "round"); row.Target != nil {
		t.Errorf("a target for a call that is not recorded: %+v", row.Target)
	}
	if _, err := exec.LookPath("gcc"); err == nil {
		if row := find(t, rep, "open+close", interposed, "round"); row.Extra <= 0 {
			t.Errorf("the interposer costs nothing: %+v", row)
		}
	}
}

func TestOverheadOfACommand(t *testing.T) {
	var w fakeWatch
	mark := t.TempDir() + "/mark"
	p, err := OverheadPlan(t.Context(), w.watch,
		OverheadOptions{Dir: t.TempDir(), Command: []string{"sh", "-c", "echo x >>" + mark}})
	rep := runPlan(t, p, err)
	if row := find(t, rep, "sh", watchIt, "run"); row.Stats.N != 2 || row.Target == nil ||
		row.Target.Max != programMaxRatio {
		t.Errorf("got %+v", row)
	}
	b, err := os.ReadFile(mark)
	if runs := strings.Count(string(b), "x"); err != nil || runs < 9 {
		t.Errorf("the command ran %d times, %v", runs, err)
	}
}

func TestOverheadOfACommandThatFails(t *testing.T) {
	var w fakeWatch
	p, err := OverheadPlan(t.Context(), w.watch, OverheadOptions{Dir: t.TempDir(), Command: []string{"false"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Done()
	if _, err := (Runner{}).Run(t.Context(), p); err == nil {
		t.Error("no error")
	}
}

func TestUnknownName(t *testing.T) {
	if _, err := OverheadPlan(t.Context(), nil, OverheadOptions{Only: []string{"nonsense"}}); !errors.Is(err,
		ErrUnknownName) {
		t.Errorf("got %v", err)
	}
}

// TestDefaultPrograms runs each of the default list once, bare, as far as it is installed.
func TestDefaultPrograms(t *testing.T) {
	if testing.Short() {
		return
	}
	p, err := OverheadPlan(t.Context(), (&fakeWatch{}).watch, OverheadOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Done()
	e := p.Experiments[len(p.Experiments)-1]
	done, err := e.Setup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	var rec Recorder
	if err := rec.run(t.Context(), &e.Variants[0]); err != nil {
		t.Fatal(err)
	}
	for _, s := range rec.series {
		t.Logf("%s: %.0f ms", s.kase, s.samples[0])
		if s.samples[0] < 50 {
			t.Errorf("%s took only %.0f ms", s.kase, s.samples[0])
		}
	}
}

func TestConclusion(t *testing.T) {
	row := func(variant string, extra float64) Row {
		return Row{Case: "open+close", Variant: variant, Extra: extra}
	}
	rep := &Report{Experiments: []ExperimentResult{{
		Name: "calls through the C library",
		Rows: []Row{row(watchIt, 400), row(interposed, 2000)},
	}}}
	Conclude(rep)
	if len(rep.Notes) != 1 || !strings.Contains(rep.Notes[0], "5.0 times as much, not the 10") {
		t.Errorf("got %q", rep.Notes)
	}
}
