package proc

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/tracer"
)

// TestRunning reads a process that runs: what needs no question to its threads is as the iterators have it.
func TestRunning(t *testing.T) {
	iter, err := tracer.NewIter()
	if err != nil {
		t.Fatal(err)
	}
	defer iter.Close()
	src, err := New()
	if err != nil {
		t.Fatal(err)
	}
	pid := start(t, []string{compile(t, "testdata/much.c"), t.TempDir()})
	want, err := iter.Collect(context.Background(), []int{pid}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := src.Collect(context.Background(), []int{pid}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want.Files, got.Files, cmpopts.IgnoreFields(model.File{}, "Unlocked", "Expiry")); d != "" {
		t.Errorf("files: iter (-) and proc (+) differ:\n%s", d)
	}
	inside := []cmp.Option{
		cmpopts.EquateEmpty(),
		cmpopts.IgnoreFields(model.Process{}, "Actions", "ITimers", "Timers", "Usage", "ChildUsage", "Subreaper",
			"ParentTid", "Continued"),
		cmpopts.IgnoreFields(model.MM{}, "Brk", "Dumpable", "Membarrier", "MDWE", "KSMMerge", "LockFuture"),
		cmpopts.IgnoreFields(model.Thread{}, "AltStack", "ClearChildTID", "PDeathSig", "TSCSignal", "CPUIDFault",
			"Restart", "SpecCtrl"),
		cmpopts.IgnoreFields(model.Creds{}, "Securebits"),
	}
	if d := cmp.Diff(want.Processes, got.Processes, inside...); d != "" {
		t.Errorf("iter (-) and proc (+) differ:\n%s", d)
	}
}
