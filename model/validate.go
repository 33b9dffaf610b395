package model

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxAddr is the end of all addresses a process can have: the user half of a 57-bit address space.
const MaxAddr = 1 << 56

// Limits of contents in bytes. What is queued in an object is stored as a Space if it is longer than a page. What goes
// beyond the total stays in the records, whose memory is bounded by what the file stores.
const (
	LeastContent = PageSize
	MaxContents  = 16 << 20
)

// Limits of what a kernel can have had (include/linux/threads.h, fs/file.c, include/uapi/linux/limits.h).
const (
	maxPid    = 1 << 22
	maxFD     = 1 << 20
	maxSignal = 64
	maxComm   = 15
	maxPipe   = 1 << 31
)

// rule is one thing that may be wrong, and what to say then.
type rule struct {
	bad bool
	why string
}

// firstBad returns the first rule that is broken as an error.
func firstBad(rules ...rule) error {
	for _, r := range rules {
		if r.bad {
			return errors.New(r.why)
		}
	}
	return nil
}

// each checks every element of a list and says which one is wrong.
func each[T any](what string, list []T, check func(*T) error) error {
	for i := range list {
		if err := check(&list[i]); err != nil {
			return fmt.Errorf("%s %d: %w", what, i, err)
		}
	}
	return nil
}

// Validate checks that a state is one a process tree can have had and that its parts fit together: everything restore
// relies on without looking again. The error says what is wrong where; Open and Commit make a fault of it.
func (st *State) Validate() error {
	if st == nil || len(st.Processes) == 0 {
		return errors.New("the state has no process")
	}
	c := &validator{st: st, tids: map[int]bool{}, spaces: map[Space]bool{}, files: map[int]bool{}}
	if err := checkMachine(&st.Kernel); err != nil {
		return err
	}
	if err := errors.Join(
		each("shmem", st.Shmems, c.shmem), each("ghost", st.Unlinked, c.unlinkedFile), each("named", st.Named, c.named),
		each("pipe", st.Pipes, c.pipe), each("terminal", st.Terminals, c.terminal),
		each("file", st.Files, c.file),
	); err != nil {
		return err
	}
	if err := each("file", st.Files, c.ofKind); err != nil {
		return err
	}
	pids := map[int]bool{}
	for i := range st.Processes {
		p := &st.Processes[i]
		err := firstBad(
			rule{i == 0 && p.Pid != st.Root, fmt.Sprintf("the first process is not the root, %d", st.Root)},
			rule{i > 0 && !pids[p.PPid], "its parent does not come before it"},
			rule{pids[p.Pid], "its pid appears twice"},
		)
		if err == nil {
			err = c.process(p)
		}
		if err != nil {
			return fmt.Errorf("process %d: %w", p.Pid, err)
		}
		pids[p.Pid] = true
	}
	return c.leaderless()
}

// leaderless checks the ids of sessions and groups without a leader.
func (c *validator) leaderless() error {
	last := 0
	for _, id := range c.st.Leaderless {
		err := firstBad(
			rule{id <= last || id > maxPid, "it is none, or not after the one before"},
			rule{
				c.tids[id] || slices.ContainsFunc(c.st.Processes, func(p Process) bool { return p.Pid == id }),
				"a process or thread of the tree has this id",
			},
		)
		if err != nil {
			return fmt.Errorf("session or group without a leader %d: %w", id, err)
		}
		last = id
	}
	return nil
}

// validator holds what was seen so far.
type validator struct {
	st     *State
	tids   map[int]bool
	spaces map[Space]bool
	files  map[int]bool

	contents int // bytes of contents that are spaces
}

// space notes a space, which nothing else may have.
func (c *validator) space(s Space) error {
	if s == 0 || c.spaces[s] {
		return fmt.Errorf("its space, %d, is none or is also another's", s)
	}
	c.spaces[s] = true
	return nil
}

// index reports whether a 1-based index is none or leads to one of n.
func index(i, n int) bool { return i >= 0 && i <= n }

// sig reports whether n is a signal, or 0 for none.
func sig(n int) bool { return n >= 0 && n <= maxSignal }

// path reports whether s can be an absolute path.
func path(s string) bool { return strings.HasPrefix(s, "/") && !strings.Contains(s, "\x00") }

// process checks one process; Validate has looked at its place among the others.
func (c *validator) process(p *Process) error {
	err := firstBad(
		rule{p.Pid <= 0 || p.Pid > maxPid || p.PPid < 0 || p.PPid > maxPid, "its pid or its parent's is none"},
		rule{p.Pgid < 0 || p.Pgid > maxPid || p.Sid < 0 || p.Sid > maxPid, "its group or session is none"},
		rule{p.ParentTid < 0 || p.ParentTid > maxPid, "the thread that it is a child of is none"},
		rule{!sig(p.ExitSignal) || !sig(p.Stopped), "its exit or stop signal is none"},
	)
	if err != nil {
		return err
	}
	if p.Zombie {
		return c.zombie(p)
	}
	if err := c.space(p.Space); err != nil {
		return err
	}
	err = firstBad(
		rule{p.ExitCode != 0, "it lives, yet has an exit status"},
		rule{p.StopTold && p.Stopped == 0, "its parent was told of a stop, and it is not stopped"},
		rule{p.Continued && (p.Stopped != 0 || p.Zombie), "it was continued, and it is stopped or has ended"},
		rule{!path(p.Exe.Path) || !index(p.Exe.Unlinked, len(c.st.Unlinked)) ||
			!index(p.Exe.Shmem, len(c.st.Shmems)), "its executable is none"},
		rule{p.CwdGone != nil && p.CwdGone.Mode&0o170000 != 0o040000, "its removed directory is none"},
		rule{!path(p.Cwd) || !path(p.Root), "its directory or its root is not an absolute path"},
		rule{p.OOMScoreAdj < -1000 || p.OOMScoreAdj > 1000, "its oom_score_adj is out of range"},
		rule{p.Autogroup < -20 || p.Autogroup > 19 || p.Autogroup != 0 &&
			p.Sid != p.Pid, "the nice value of its session is out of range, or it leads none"},
		rule{p.Umask > 0o777, "its umask is out of range"},
		rule{len(p.Threads) == 0 || p.Threads[0].Tid != p.Pid, "its first thread is not its leader"},
	)
	if err != nil {
		return err
	}
	if err := checkMM(&p.MM); err != nil {
		return err
	}
	if err := c.vmas(p); err != nil {
		return err
	}
	if err := c.fds(p); err != nil {
		return err
	}
	if err := c.threads(p); err != nil {
		return err
	}
	return errors.Join(checkActions(p), each("pending signal", p.Pending, checkSigInfo), checkTimers(p),
		each("limit", p.Limits[:], func(l *Limit) error {
			return firstBad(rule{l.Cur > l.Max, "the soft one is above the hard one"})
		}))
}

// zombie checks a process of which only the exit status is left.
func (c *validator) zombie(p *Process) error {
	if c.tids[p.Pid] {
		return errors.New("its id is also another's")
	}
	c.tids[p.Pid] = true
	return firstBad(
		rule{p.Space != 0 || len(p.VMAs) > 0 || len(p.FDs) > 0 ||
			len(p.Threads) > 0, "it is a zombie, yet has memory, descriptors or threads"},
		rule{p.ExitCode < 0 || p.ExitCode > 0xffff, "its exit status is none"},
	)
}

// checkMM checks the bookkeeping of an address space.
func checkMM(m *MM) error {
	for _, a := range []uint64{
		m.StartCode, m.EndCode, m.StartData, m.EndData, m.StartBrk, m.Brk, m.StartStack, m.ArgStart, m.ArgEnd,
		m.EnvStart, m.EnvEnd,
	} {
		if a > MaxAddr {
			return fmt.Errorf("an address of its mm, %#x, is beyond the address space", a)
		}
	}
	return firstBad(
		rule{m.StartCode > m.EndCode || m.StartData > m.EndData ||
			m.StartBrk > m.Brk, "a range of its mm ends before it begins"},
		rule{m.ArgStart > m.ArgEnd || m.EnvStart > m.EnvEnd, "its arguments or environment end before they begin"},
		rule{len(m.Auxv)%16 != 0 || len(m.Auxv) > 4096, "its auxiliary vector has an odd length"},
		rule{m.Dumpable < 0 || m.Dumpable > 2, "its dumpable flag is out of range"},
	)
}

// vmas checks the mappings of a process.
func (c *validator) vmas(p *Process) error {
	end := uint64(0)
	for i := range p.VMAs {
		v := &p.VMAs[i]
		err := firstBad(
			rule{v.Start%PageSize != 0 || v.End%PageSize != 0, "it is not aligned"},
			rule{v.Start >= v.End || v.End > MaxAddr, "it is empty, or reaches beyond the address space"},
			rule{v.Start < end, "it overlaps the one before, or is out of order"},
			rule{v.Prot > 7, "its protection is unknown"},
			rule{v.Offset%PageSize != 0 || v.Offset > 1<<63-(v.End-v.Start), "its offset is absurd"},
			rule{v.Pkey < 0 || v.Pkey > 15, "its protection key is out of range"},
			rule{!index(v.File.Unlinked, len(c.st.Unlinked)), "it names an unlinked file that does not exist"},
			rule{strings.Contains(v.Name, "\x00"), "its name has a zero byte"},
		)
		if err == nil {
			err = c.backing(v)
		}
		if err == nil {
			err = checkFlags(v)
		}
		if err == nil {
			err = checkGuards(v)
		}
		if err != nil {
			return fmt.Errorf("mapping %x-%x: %w", v.Start, v.End, err)
		}
		end = v.End
	}
	return nil
}

// backing checks that a mapping has what its kind needs.
func (c *validator) backing(v *VMA) error {
	if (v.Kind == VMAShmem) != (v.Shmem != 0) || !index(v.Shmem, len(c.st.Shmems)) {
		return errors.New("it names a shmem that does not exist, or none where it needs one")
	}
	switch v.Kind {
	case VMAAnon, VMAShmem, VMAVDSO, VMAVVar:
		return nil
	case VMAFile:
		return firstBad(rule{!path(v.File.Path), "its file has no absolute path"})
	}
	return fmt.Errorf("its kind %q is not one an image can hold", v.Kind)
}

// checkFlags checks that every flag of a mapping is one that an image can hold. Those of the vDSO are the kernel's own
// affair.
func checkFlags(v *VMA) error {
	if v.Kind == VMAVDSO || v.Kind == VMAVVar {
		return nil
	}
	for _, name := range v.Flags {
		if f, ok := VMAFlagOf(name); !ok || f.How == FlagRefused {
			return fmt.Errorf("its flag %q is not one an image can hold", name)
		}
	}
	return nil
}

// checkGuards checks the guard regions of a mapping.
func checkGuards(v *VMA) error {
	at := v.Start
	for _, g := range v.Guards {
		if g.Start < at || g.Start >= g.End || g.End > v.End || g.Start%PageSize != 0 || g.End%PageSize != 0 {
			return fmt.Errorf("its guard region %x-%x is not inside it, or out of order", g.Start, g.End)
		}
		at = g.End
	}
	return nil
}

// fds checks the descriptors of a process.
func (c *validator) fds(p *Process) error {
	last := -1
	for _, d := range p.FDs {
		err := firstBad(
			rule{d.Num <= last || d.Num >= maxFD, "its number is absurd or out of order"},
			rule{!c.files[d.File], fmt.Sprintf("it names file %d, which does not exist", d.File)},
		)
		if err != nil {
			return fmt.Errorf("fd %d: %w", d.Num, err)
		}
		last = d.Num
	}
	return nil
}

// checkActions checks the signal actions of a process.
func checkActions(p *Process) error {
	last := 0
	for _, a := range p.Actions {
		if a.Signal <= last || a.Signal > maxSignal {
			return fmt.Errorf("signal action %d: no such signal, or out of order", a.Signal)
		}
		last = a.Signal
	}
	return nil
}

// checkSigInfo checks a raw siginfo_t.
func checkSigInfo(s *SigInfo) error {
	const size = 128 // SI_MAX_SIZE, asm-generic/siginfo.h
	b := *s
	if len(b) != size {
		return fmt.Errorf("its siginfo has %d bytes", len(b))
	}
	if n := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24; n == 0 || n > maxSignal {
		return fmt.Errorf("%d is no signal", n)
	}
	return nil
}

// checkTimers checks the interval and POSIX timers of a process.
func checkTimers(p *Process) error {
	for i, t := range p.ITimers {
		if t.Value < 0 || t.Interval < 0 {
			return fmt.Errorf("interval timer %d: its time is negative", i)
		}
	}
	last := -1
	for i := range p.Timers {
		t := &p.Timers[i]
		err := firstBad(
			rule{t.ID <= last, "its id is negative or out of order"},
			// SIGEV_*, sigevent(7)
			rule{!slices.Contains([]int{0, 1, 2, 4}, t.Notify), "its way of notification is unknown"},
			rule{!sig(t.Signo), "its signal is none"},
			rule{
				t.Notify == 4 && !slices.ContainsFunc(p.Threads, func(th Thread) bool { return th.Tid == t.Tid }),
				"its thread does not exist",
			},
			rule{t.Left < 0 || t.Interval < 0 || t.Overrun < 0 || t.Expired < 0, "its time is negative"},
			rule{t.Date < 0 || t.Date != 0 &&
				t.Clock != 0, "it has a date before the first, or of another clock than CLOCK_REALTIME"},
		)
		if err != nil {
			return fmt.Errorf("timer %d: %w", t.ID, err)
		}
		last = t.ID
	}
	return nil
}
