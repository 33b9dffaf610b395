package plan

import (
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// Who is told that CPU clocks start again: a tree with a process that counts on them, or that has used much.
func TestCPUClockNotes(t *testing.T) {
	unlimited := func(change func(*model.Process)) *model.State {
		p := model.Process{}
		p.Limits[rlimitCPU].Cur = ^uint64(0)
		change(&p)
		return &model.State{Processes: []model.Process{p, {Zombie: true}}}
	}
	for want, st := range map[string]*model.State{
		"":            unlimited(func(*model.Process) {}),
		"start again": unlimited(func(p *model.Process) { p.Usage.UTime = muchCPU }),
		"timers keep": unlimited(func(p *model.Process) { p.ITimers[itimerProf].Value = 1 }),
		"CPU timers": unlimited(func(p *model.Process) {
			p.Timers = []model.PosixTimer{{
				Clock: clockThread,
				Left:  1,
			}}
		}),
		"its limit of": unlimited(func(p *model.Process) { p.Limits[rlimitCPU].Cur = 60 }),
	} {
		notes := strings.Join(cpuClockNotes(st), "\n")
		if !strings.Contains(notes, want) || want == "" && notes != "" {
			t.Errorf("the notes are %q, want %q", notes, want)
		}
	}
}
