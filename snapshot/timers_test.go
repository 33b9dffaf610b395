package snapshot

import (
	"context"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// lateSource is a source that is slow: before it first reads a stopped process the alarm of that runs out.
type lateSource struct {
	kstate.Source
	t     *testing.T
	reads int
}

func (s *lateSource) Collect(ctx context.Context, pids []int, g *ptrace.Group) (*kstate.Collected, error) {
	if g != nil {
		if s.reads++; s.reads == 1 {
			for end := time.Now().Add(10 * time.Second); !alarmPending(s.t, pids[0]) && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		}
	}
	return s.Source.Collect(ctx, pids, g)
}

func alarmPending(t *testing.T, pid int) bool {
	t.Helper()
	status, err := procfs.Pid(pid).Status()
	if err != nil {
		t.Fatal(err)
	}
	return status.ShdPnd&(1<<(unix.SIGALRM-1)) != 0
}

// A timer that runs out between the reading of what is pending and that of the timers is not lost.
func TestTimerRunsOutMeanwhile(t *testing.T) {
	tg := start(t, "idle", "alarmed")
	src, err := openSource(sources(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	_, r := snap(t, tg.pid(), Options{Live: &lateSource{Source: src, t: t}})
	p := r.State().Processes[0]
	waits := slices.ContainsFunc(p.Pending,
		func(info model.SigInfo) bool { return unix.Signal(info[0]) == unix.SIGALRM })
	if !waits && p.ITimers[0].Value == 0 {
		t.Error("neither the alarm nor its signal is in the image")
	}
	if waits && p.ITimers[0].Value != 0 {
		t.Errorf("the signal is there, and the alarm comes again in %d ns", p.ITimers[0].Value)
	}
	tg.finish()
}
