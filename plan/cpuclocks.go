package plan

import (
	"time"

	"github.com/bpfckpt/bpfckpt/model"
)

// muchCPU is how much CPU time a process has used whose CPU clocks are worth a word.
const muchCPU = int64(time.Second)

// Numbers of a limit, timers and clocks (getrlimit(2), setitimer(2), clock_gettime(2)).
const (
	rlimitCPU     = 0
	itimerVirtual = 1
	itimerProf    = 2
	clockProcess  = 2
	clockThread   = 3
)

// cpuClockNotes tells what no kernel interface gives back: the CPU time a process has used. It is said of processes
// that have used much, or that count on it.
func cpuClockNotes(st *model.State) []string {
	var timers, limits, much bool
	for i := range st.Processes {
		p := &st.Processes[i]
		timers = timers || hasCPUTimers(p)
		limits = limits || !p.Zombie && p.Limits[rlimitCPU].Cur != ^uint64(0)
		much = much || !p.Zombie && p.Usage.UTime+p.Usage.STime >= muchCPU
	}
	if !timers && !limits && !much {
		return nil
	}
	note := "CPU time clocks (CLOCK_PROCESS_CPUTIME_ID, clock(3), getrusage(2)) start again at zero when it is restored: no kernel sets them"
	if timers {
		note += "; its CPU timers keep the CPU time that is left"
	}
	if limits {
		note += "; its limit of CPU time counts from the restore on"
	}
	return []string{note}
}

// hasCPUTimers tells whether a timer of a process that runs counts CPU time.
func hasCPUTimers(p *model.Process) bool {
	for _, which := range []int{itimerVirtual, itimerProf} {
		if p.ITimers[which].Value != 0 {
			return true
		}
	}
	for i := range p.Timers {
		c := p.Timers[i].Clock
		if cpu := c < 0 || c == clockProcess || c == clockThread; cpu && p.Timers[i].Left != 0 {
			return true
		}
	}
	return false
}
