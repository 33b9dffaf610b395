package restore

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// What is done about an id that is taken depends on what was chosen; without one that is taken nothing is.
func TestChooseIDs(t *testing.T) {
	taken := map[int]bool{os.Getpid(): true}
	free := map[int]bool{1<<22 - 3: true} // above any pid_max that a machine with processes has used up
	for _, c := range []struct {
		choice string
		want   map[int]bool
		pidNS  bool
		code   fault.Code
	}{
		{PidNSNever, free, false, ""},
		{"", free, false, ""},
		{PidNSAuto, free, false, ""},
		{PidNSAlways, free, true, ""},
		{PidNSNever, taken, false, fault.PidTaken},
		{"", taken, false, fault.PidTaken},
		{PidNSAuto, taken, true, ""},
		{PidNSAlways, taken, true, ""},
		{"sometimes", free, false, fault.RestoreState},
	} {
		j := newJournal(t)
		pidNS, err := chooseIDs(j, c.choice, c.want)
		var f *fault.Error
		if errors.As(err, &f); pidNS != c.pidNS || (err != nil) != (c.code != "") || f != nil && f.Code != c.code {
			t.Errorf("%q, taken %t: namespace %t, %v", c.choice, c.want[os.Getpid()], pidNS, err)
		}
		if told := len(j.notes) > 0; told != (c.choice == PidNSAuto && c.pidNS) {
			t.Errorf("%q: notes %q", c.choice, j.notes)
		}
	}
}

// A thread, a process group and a session keep an id as a process does, and are named.
func TestOccupantsOfEveryRole(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	list, err := occupants(map[int]bool{cmd.Process.Pid: true})
	if err != nil || len(list) != 1 || list[0].role != "process" || list[0].dead() {
		t.Errorf("a process: %+v, %v", list, err)
	}
	tids, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tids) < 2 {
		t.Fatal(tids, err)
	}
	for _, tid := range tids {
		if o, ok := lookup(number(t, tid.Name())); !ok || (o.role == "thread") != (o.id != os.Getpid()) {
			t.Errorf("id %s: %+v, %t", tid.Name(), o, ok)
		}
	}
}

// While a dead process has an id, one waits for its end, but no longer than for the context.
func TestDeadOccupantIsWaitedFor(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := awaitState(cmd.Process.Pid, "Z"); err != nil {
		t.Fatal(err)
	}
	want := map[int]bool{cmd.Process.Pid: true}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := awaitFreeIDs(ctx, want); !errors.Is(err, context.Canceled) {
		t.Errorf("after the context: %v", err)
	}
	go func() { _ = cmd.Wait() }()
	if list, err := awaitFreeIDs(t.Context(), want); err != nil || len(list) > 0 {
		t.Errorf("after its end: %+v, %v", list, err)
	}
}

func TestFaultOfAnOccupant(t *testing.T) {
	for want, o := range map[string]occupant{
		`taken by process "x", state S`:                   {id: 7, role: "process", pid: 7, comm: "x", state: "S"},
		`taken by a process group of pid 9 "y"`:           {id: 7, role: "process group", pid: 9, comm: "y"},
		`taken by a session`:                              {id: 7, role: "session"},
		`taken by a thread of pid 3 "with (parentheses)"`: {id: 7, role: "thread", pid: 3, comm: "with (parentheses)"},
	} {
		if have := o.fault().Error(); !strings.Contains(have, want) {
			t.Errorf("%s: does not say %s", have, want)
		}
	}
}
