package plan

import (
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
)

// Who is told that CPU clocks start again: a tree with a process that counts on them, or that has used much.
func TestCPUClockNotes(t *testing.T) {
	unlimited := func(change func(*image.Process)) *image.State {
		p := image.Process{}
		p.Limits[rlimitCPU].Cur = ^uint64(0)
		change(&p)
		return &image.State{Processes: []image.Process{p, {Zombie: true}}}
	}
	for want, st := range map[string]*image.State{
		"":            unlimited(func(*image.Process) {}),
		"start again": unlimited(func(p *image.Process) { p.Usage.UTime = muchCPU }),
		"timers keep": unlimited(func(p *image.Process) { p.ITimers[itimerProf].Value = 1 }),
		"CPU timers": unlimited(func(p *image.Process) {
			p.Timers = []image.PosixTimer{{
				Clock: clockThread,
				Left:  1,
			}}
		}),
		"its limit of": unlimited(func(p *image.Process) { p.Limits[rlimitCPU].Cur = 60 }),
	} {
		notes := strings.Join(cpuClockNotes(st), "\n")
		if !strings.Contains(notes, want) || want == "" && notes != "" {
			t.Errorf("the notes are %q, want %q", notes, want)
		}
	}
}
