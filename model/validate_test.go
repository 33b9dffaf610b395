package model_test

import (
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

const page = model.PageSize

func TestValidateTakesGoodStates(t *testing.T) {
	if err := imagetest.State().Validate(); err != nil {
		t.Error(err)
	}
	st := imagetest.State()
	p := st.Processes[0]
	st.Processes = append(st.Processes, model.Process{
		Pid: 1300, PPid: p.Pid, Pgid: p.Pgid, Sid: p.Sid, Zombie: true,
		ExitCode: 9,
	})
	st.Processes[0].Stopped = 19
	st.Processes[0].Threads[1].Restart = &model.Restart{Kind: "poll", Left: -1, Addr: imagetest.HeapAddr, Val: 1}
	st.Processes[0].VMAs[3].Guards = []model.Range{{Start: imagetest.StackAddr, End: imagetest.StackAddr + page}}
	if err := st.Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidateRefuses(t *testing.T) {
	type state = model.State
	type process = model.Process
	type thread = model.Thread
	st := func(f func(*state)) func(*state) { return f }
	pr := func(f func(*process)) func(*state) { return func(s *state) { f(&s.Processes[0]) } }
	of := func(kind string, p model.Payload) func(*state) {
		return func(s *state) { s.Files = append(s.Files, model.File{ID: 5, Kind: kind, Of: p}) }
	}
	th := func(f func(*thread)) func(*state) { return func(s *state) { f(&s.Processes[0].Threads[1]) } }
	for want, change := range map[string]func(*state){
		"no process":        st(func(s *state) { s.Processes = nil }),
		"not the root":      st(func(s *state) { s.Root++ }),
		"machine \"sparc\"": st(func(s *state) { s.Kernel.Machine = "sparc" }),
		"parent does not come": st(func(s *state) {
			p := s.Processes[0]
			p.Pid, p.PPid = 9,
				8
			s.Processes = append(s.Processes, p)
		}),
		"pid appears twice":      st(func(s *state) { p := s.Processes[0]; p.PPid = p.Pid; s.Processes = append(s.Processes, p) }),
		"shmem 0: its space, 0":  st(func(s *state) { s.Shmems[0].Space = 0 }),
		"is also another's":      st(func(s *state) { s.Unlinked[0].Space = s.Shmems[0].Space }),
		"shmem 0: its size":      st(func(s *state) { s.Shmems[0].Size = -1 }),
		"shmem 0: its kind":      st(func(s *state) { s.Shmems[0].Kind = "" }),
		"ghost 0: its size":      st(func(s *state) { s.Unlinked[0].Size = 1 << 60 }),
		"pipe 0: its capacity":   st(func(s *state) { s.Pipes[0].Capacity = 0 }),
		"more than its capacity": st(func(s *state) { s.Pipes[0].Capacity = 1 }),
		"packets are not its":    st(func(s *state) { s.Pipes[0].Packets = []int{1} }),
		"terminal 0":             st(func(s *state) { s.Terminals[0].Termios = nil }),
		"file 1: its id, 1":      st(func(s *state) { s.Files[1].ID = 1 }),
		"file 0: it has no kind": st(func(s *state) { s.Files[0].Kind = "" }),
		"names an unlinked file": st(func(s *state) { s.Files[0].Unlinked = 2 }),
		"names a shmem":          st(func(s *state) { s.Files[0].Shmem = -1 }),
		"names a pipe":           st(func(s *state) { s.Files[0].Pipe = 2 }),
		"names a terminal":       st(func(s *state) { s.Files[0].Term = 2 }),
		"standard stream":        st(func(s *state) { s.Files[0].Std = 4 }),
		"lock 0: its type":       st(func(s *state) { s.Files[0].Locks = []model.Lock{{Type: "LEASE"}} }),
		"lock 0: its range": st(func(s *state) {
			s.Files[0].Locks = []model.Lock{{
				Type: "POSIX", Start: 5,
				End: 3,
			}}
		}),
		"zero byte":                   st(func(s *state) { s.Files[0].Path = "/a\x00b" }),
		"its count":                   of("eventfd", &model.EventFD{Count: 1<<64 - 1}),
		"its clock":                   of("timerfd", &model.TimerFD{Left: -1}),
		"watch 0":                     of("inotify", &model.Inotify{Watches: []model.Watch{{Path: "x"}}}),
		"names file 5":                of("epoll", &model.Epoll{Targets: []model.EpollTarget{{File: 5}}}),
		"file 4: entry 0: its number": of("epoll", &model.Epoll{Targets: []model.EpollTarget{{File: 2, FD: -1}}}),
		"its pid or its parent's":     pr(func(p *process) { p.PPid = -1 }),
		"group or session":            pr(func(p *process) { p.Sid = 1 << 23 }),
		"leader 9: it is none":        st(func(s *state) { s.Leaderless = []int{10, 9} }),
		"tree has this id":            st(func(s *state) { s.Leaderless = []int{imagetest.Pid} }),
		"told of a stop":              pr(func(p *process) { p.Stopped, p.StopTold = 0, true }),
		"exit or stop signal":         pr(func(p *process) { p.Stopped = 65 }),
		"yet has an exit status":      pr(func(p *process) { p.ExitCode = 1 }),
		"it is a zombie":              pr(func(p *process) { p.Zombie = true }),
		"executable":                  pr(func(p *process) { p.Exe.Path = "prog" }),
		"its directory":               pr(func(p *process) { p.Cwd = "" }),
		"oom_score_adj":               pr(func(p *process) { p.OOMScoreAdj = 1001 }),
		"umask":                       pr(func(p *process) { p.Umask = 0o1000 }),
		"not its leader":              pr(func(p *process) { p.Threads = p.Threads[1:] }),
		"address of its mm":           pr(func(p *process) { p.MM.Brk = 1 << 60 }),
		"range of its mm":             pr(func(p *process) { p.MM.Brk = 0 }),
		"auxiliary vector":            pr(func(p *process) { p.MM.Auxv = make([]byte, 15) }),
		"dumpable":                    pr(func(p *process) { p.MM.Dumpable = 3 }),
		"it is not aligned":           pr(func(p *process) { p.VMAs[1].Start++ }),
		"it is empty, or":             pr(func(p *process) { p.VMAs[3].End = 1<<56 + page }),
		"it overlaps the one":         pr(func(p *process) { p.VMAs[1].Start = imagetest.TextAddr }),
		"its protection":              pr(func(p *process) { p.VMAs[1].Prot = 8 }),
		"its offset is absurd":        pr(func(p *process) { p.VMAs[0].Offset = 1 << 63 }),
		"protection key":              pr(func(p *process) { p.VMAs[1].Pkey = 16 }),
		"none where it needs one":     pr(func(p *process) { p.VMAs[2].Shmem = 0 }),
		"shmem that does not":         pr(func(p *process) { p.VMAs[1].Shmem = 1 }),
		"no absolute path":            pr(func(p *process) { p.VMAs[0].File.Path = "" }),
		"can hold":                    pr(func(p *process) { p.VMAs[1].Kind = model.VMASysV }),
		"guard region":                pr(func(p *process) { p.VMAs[1].Guards = []model.Range{{Start: 0, End: page}} }),
		"fd 0: its number":            pr(func(p *process) { p.FDs[1].Num = 0 }),
		"fd 1048576":                  pr(func(p *process) { p.FDs[4].Num = 1 << 20 }),
		"names file 9":                pr(func(p *process) { p.FDs[4].File = 9 }),
		"signal action 65":            pr(func(p *process) { p.Actions[0].Signal = 65 }),
		"siginfo has 3 bytes":         pr(func(p *process) { p.Pending = []model.SigInfo{{1, 2, 3}} }),
		"0 is no signal":              pr(func(p *process) { p.Pending[0][0] = 0 }),
		"interval timer 1":            pr(func(p *process) { p.ITimers[1].Value = -1 }),
		"timer 0: its way":            pr(func(p *process) { p.Timers[0].Notify = 3 }),
		"timer 0: its thread":         pr(func(p *process) { p.Timers[0].Tid = 1 }),
		"timer 0: its time":           pr(func(p *process) { p.Timers[0].Left = -1 }),
		"limit 3":                     pr(func(p *process) { p.Limits[3] = model.Limit{Cur: 2, Max: 1} }),
		"thread 1234: its id":         th(func(t *thread) { t.Tid = imagetest.Pid }),
		"registers have 3":            th(func(t *thread) { t.Regs = t.Regs[:3] }),
		"extended state has 512":      th(func(t *thread) { t.XState = t.XState[:512] }),
		"CPU did not offer":           th(func(t *thread) { t.XState[512] = 0xff }),
		"compacted":                   th(func(t *thread) { t.XState[520] = 1 }),
		"its name":                    th(func(t *thread) { t.Comm = strings.Repeat("x", 16) }),
		"alternate stack":             th(func(t *thread) { t.AltStack.Flags = 1 }),
		"rseq":                        th(func(t *thread) { t.Rseq.Ptr = 5 }),
		"affinity":                    th(func(t *thread) { t.Affinity = []uint64{1, 0} }),
		"I/O priority":                th(func(t *thread) { t.IOPrio = -1 }),
		"parent-death":                th(func(t *thread) { t.PDeathSig = 65 }),
		"user dispatch":               th(func(t *thread) { t.SUD.Mode = 2 }),
		"groups":                      th(func(t *thread) { t.Creds.Groups = []uint32{2, 1} }),
		"policy 4":                    th(func(t *thread) { t.Sched.Policy = 4 }),
		"nice":                        th(func(t *thread) { t.Sched.Nice = 20 }),
		"seccomp mode":                th(func(t *thread) { t.Seccomp.Mode = 2 }),
		"seccomp filter 0": th(func(t *thread) {
			t.Seccomp = model.Seccomp{Mode: 2, Filters: []model.SeccompFilter{{Prog: make([]byte, 7)}}}
		}),
		"restart block of kind": th(func(t *thread) { t.Restart = &model.Restart{Kind: "read"} }),
		"time left":             th(func(t *thread) { t.Restart = &model.Restart{Kind: "futex", Left: -2} }),
	} {
		s := imagetest.State()
		change(s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	var none *model.State
	if none.Validate() == nil {
		t.Error("no state is a good state")
	}
}
