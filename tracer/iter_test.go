package tracer

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// stateful are the test programs whose cases each set up one kind of kernel state.
var stateful = []string{"vmas", "proc", "signals", "timers", "fds"}

// TestAgainstProc freezes each case of the test programs and holds what the iterators say against the files of /proc.
func TestAgainstProc(t *testing.T) {
	it := newIter(t)
	for _, name := range stateful {
		for _, c := range casesOf(t, name) {
			t.Run(name+"/"+c, func(t *testing.T) {
				tg := start(t, name, c)
				p, all := collect(t, it, tg.pid, tg.freeze(t))
				checkMaps(t, p)
				checkFDs(t, p, all.Files)
				checkStatus(t, p)
				checkSmall(t, p)
			})
		}
	}
}

// checkMaps compares with maps and smaps. What VmFlags say of a mapping and vm_flags do not is left out.
func checkMaps(t *testing.T, p *model.Process) {
	t.Helper()
	smaps, err := procfs.Pid(p.Pid).Smaps()
	if err != nil {
		t.Fatal(err)
	}
	smaps = slices.DeleteFunc(smaps, func(s procfs.Smap) bool { return s.Name == "[vsyscall]" })
	if len(smaps) != len(p.VMAs) {
		t.Fatalf("%d mappings instead of %d", len(p.VMAs), len(smaps))
	}
	for i, s := range smaps {
		v := p.VMAs[i]
		flags := slices.DeleteFunc(slices.Clone(s.Flags), func(f string) bool { return f == "sd" || f == "??" })
		slices.Sort(flags)
		name := s.Name
		if s.HasFile() {
			name = ""
		}
		name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
		want := model.VMA{
			Start: s.Start, End: s.End, Prot: s.Prot, Shared: s.Shared, Offset: s.Offset, Flags: flags,
			Pkey: s.ProtectionKey,
			Name: name,
		}
		have := v
		have.Kind, have.File, have.NUMA = "", model.MappedFile{}, ""
		have.Name = strings.TrimSuffix(strings.TrimPrefix(have.Name, "["), "]")
		have.Flags = slices.DeleteFunc(slices.Clone(have.Flags),
			func(f string) bool { return f == "lf" && !slices.Contains(flags, f) })
		if v.Kind == model.VMASysV || v.Kind == model.VMADevice || v.Kind == model.VMAOther {
			have.Name, want.Name = "", ""
		}
		if d := cmp.Diff(want, have); d != "" {
			t.Errorf("mapping %s %s (-smaps +iter):\n%s", s.Key(), s.Name, d)
		}
		if s.HasFile() {
			checkMapped(t, p.Pid, &s, &v)
		}
	}
}

// checkMapped compares the file of a mapping with what map_files leads to.
func checkMapped(t *testing.T, pid int, s *procfs.Smap, v *model.VMA) {
	t.Helper()
	dir := procfs.Pid(pid)
	st, err := dir.Stat2("map_files/" + s.Key())
	if err != nil {
		return // a memfd or shared anonymous mapping may be refused; those are compared by number in snapshot
	}
	if st.Dev != v.File.Dev || st.Ino != v.File.Ino {
		t.Errorf("mapping %s: file %d:%d, stat says %d:%d", s.Key(), v.File.Dev, v.File.Ino, st.Dev, st.Ino)
	}
	if link, err := dir.Link("map_files/" + s.Key()); err == nil &&
		strings.TrimSuffix(link, " (deleted)") != v.File.Path {
		t.Errorf("mapping %s: path %q, the link says %q", s.Key(), v.File.Path, link)
	}
}

// checkFDs compares with fd and fdinfo.
func checkFDs(t *testing.T, p *model.Process, files []model.File) {
	t.Helper()
	dir := procfs.Pid(p.Pid)
	nums, err := dir.FDs()
	if err != nil {
		t.Fatal(err)
	}
	var have []int
	for _, fd := range p.FDs {
		have = append(have, fd.Num)
		f := files[fd.File-1]
		info, err := dir.FDInfo(fd.Num)
		if err != nil {
			t.Fatal(err)
		}
		link, err := dir.Link(fmt.Sprintf("fd/%d", fd.Num))
		if err != nil {
			t.Fatal(err)
		}
		st, err := dir.Stat2(fmt.Sprintf("fd/%d", fd.Num))
		if err != nil {
			t.Fatal(err)
		}
		want := model.File{
			ID: fd.File, Flags: info.Flags &^ unix.O_CLOEXEC, Pos: info.Pos,
			Path: link, Mode: st.Mode, Dev: st.Dev, Ino: st.Ino, Rdev: st.Rdev,
		}
		want.Unlocked, want.Expiry = f.Unlocked, f.Expiry // a hint that /proc does not give
		if d := cmp.Diff(want, f); d != "" {
			t.Errorf("descriptor %d (-proc +iter):\n%s", fd.Num, d)
		}
		if cloexec := info.Flags&unix.O_CLOEXEC != 0; cloexec != fd.Cloexec {
			t.Errorf("descriptor %d: close-on-exec %v", fd.Num, fd.Cloexec)
		}
	}
	if !slices.Equal(nums, have) {
		t.Errorf("descriptors %v instead of %v", have, nums)
	}
}

// checkStatus compares with stat and status of every thread.
func checkStatus(t *testing.T, p *model.Process) {
	t.Helper()
	tids, err := procfs.Pid(p.Pid).Tasks()
	if err != nil {
		t.Fatal(err)
	}
	if len(tids) != len(p.Threads) {
		t.Fatalf("%d threads instead of %d", len(p.Threads), len(tids))
	}
	for i := range p.Threads {
		th := &p.Threads[i]
		dir := procfs.Task(p.Pid, th.Tid)
		status, err := dir.Status()
		if err != nil {
			t.Fatal(err)
		}
		want := model.Creds{
			UID: status.UID[0], EUID: status.UID[1], SUID: status.UID[2], FSUID: status.UID[3],
			GID: status.GID[0], EGID: status.GID[1], SGID: status.GID[2], FSGID: status.GID[3],
			Groups: status.Groups, Securebits: th.Creds.Securebits,
			CapInh: status.CapInh, CapPrm: status.CapPrm, CapEff: status.CapEff, CapBnd: status.CapBnd,
			CapAmb: status.CapAmb,
		}
		if d := cmp.Diff(want, th.Creds, cmpEmptyGroups()); d != "" {
			t.Errorf("credentials of thread %d (-status +iter):\n%s", th.Tid, d)
		}
		stat, err := dir.Stat()
		if err != nil {
			t.Fatal(err)
		}
		type row struct {
			Comm                   string
			Nice                   int
			Policy, Priority       uint32
			NoNewPrivs             bool
			Seccomp                int
			Umask                  uint32
			PPid, Pgid, Sid        int
			TTY                    uint32
			StartCode, StartStack  uint64
			ArgStart, EnvEnd, SBrk uint64
		}
		have := row{
			th.Comm, int(th.Sched.Nice), th.Sched.Policy, th.Sched.Priority, th.NoNewPrivs, th.Seccomp.Mode, p.Umask,
			p.PPid, p.Pgid, p.Sid, p.TTY, p.MM.StartCode, p.MM.StartStack, p.MM.ArgStart, p.MM.EnvEnd, p.MM.StartBrk,
		}
		say := row{
			stat.Comm, stat.Nice, stat.Policy, stat.RTPriority, status.NoNewPrivs, status.Seccomp, status.Umask,
			stat.PPid, stat.Pgrp, stat.Session, stat.TTY, stat.StartCode, stat.StartStack, stat.ArgStart, stat.EnvEnd,
			stat.StartBrk,
		}
		if d := cmp.Diff(say, have); d != "" {
			t.Errorf("thread %d (-proc +iter):\n%s", th.Tid, d)
		}
	}
}

func cmpEmptyGroups() cmp.Option {
	return cmp.Transformer("empty", func(g []uint32) []uint32 { return append([]uint32{}, g...) })
}

// checkSmall compares with the small files: limits, timers, personality, auxv, oom_score_adj.
func checkSmall(t *testing.T, p *model.Process) {
	t.Helper()
	dir := procfs.Pid(p.Pid)
	limits, err := dir.Limits()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range limits {
		if p.Limits[i] != (model.Limit{Cur: l.Soft, Max: l.Hard}) {
			t.Errorf("limit %d is %v instead of %v", i, p.Limits[i], l)
		}
	}
	timers, err := dir.Timers()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(timers, func(a, b procfs.Timer) int { return a.ID - b.ID })
	if len(timers) != len(p.Timers) {
		t.Fatalf("%d timers instead of %d", len(p.Timers), len(timers))
	}
	for i, want := range timers {
		have := p.Timers[i]
		if have.ID != want.ID || have.Signo != want.Signo || have.Value != want.Value || have.Notify != want.Notify ||
			have.Clock != want.Clock {
			t.Errorf("timer %+v instead of %+v", have, want)
		}
	}
	auxv, err := dir.Auxv()
	if err != nil || string(auxv) != string(p.MM.Auxv) {
		t.Errorf("auxiliary vector %x instead of %x (%v)", p.MM.Auxv, auxv, err)
	}
	if per, err := dir.Personality(); err != nil || per != p.Threads[0].Personality {
		t.Errorf("personality %#x instead of %#x (%v)", p.Threads[0].Personality, per, err)
	}
	if adj, err := dir.OOMScoreAdj(); err != nil || adj != p.OOMScoreAdj {
		t.Errorf("oom_score_adj %d instead of %d (%v)", p.OOMScoreAdj, adj, err)
	}
}

// TestRunningTarget reads a process that runs: nothing fails, and what only a stopped target tells is left out.
func TestRunningTarget(t *testing.T) {
	it := newIter(t)
	tg := start(t, "timers", "posix-signal")
	p, _ := collect(t, it, tg.pid, nil)
	if len(p.VMAs) == 0 || len(p.Timers) == 0 || p.Threads[0].Restart != nil {
		t.Errorf("%d mappings, %d timers, restart %v", len(p.VMAs), len(p.Timers), p.Threads[0].Restart)
	}
}

// TestUsage compares the CPU time, which the kernel scales, with getrusage of a child that has been waited for.
func TestUsage(t *testing.T) {
	it := newIter(t)
	tg := start(t, "signals", casesOf(t, "signals")[0])
	p, _ := collect(t, it, tg.pid, tg.freeze(t))
	stat, err := procfs.Pid(tg.pid).Stat()
	if err != nil {
		t.Fatal(err)
	}
	const tick = int64(time.Second / 100)
	// stat cuts each of the two to whole ticks.
	if have, want := p.Usage.UTime+p.Usage.STime, int64(stat.UTime+stat.STime)*tick; have < want ||
		have >= want+2*tick {
		t.Errorf("CPU time %d ns, stat says %d", have, want)
	}
	if p.Usage.MinFlt != stat.MinFlt || p.Usage.MajFlt != stat.MajFlt {
		t.Errorf("faults %d and %d, stat says %d and %d", p.Usage.MinFlt, p.Usage.MajFlt, stat.MinFlt, stat.MajFlt)
	}
	status, err := procfs.Pid(tg.pid).Status()
	if err != nil {
		t.Fatal(err)
	}
	// The mark of getrusage(2) outlives execve: that of the process image before is in it, the one of status is not.
	if hwm := status.VmHWM << 10; p.Usage.MaxRSS+1<<20 < hwm {
		t.Errorf("largest resident set %d, status says %d", p.Usage.MaxRSS, hwm)
	}
}

// TestGone names a process that is not there.
func TestGone(t *testing.T) {
	it := newIter(t)
	_, err := it.Collect(t.Context(), []int{1 << 30}, nil)
	if err == nil || !strings.Contains(err.Error(), "E_TARGET_GONE") {
		t.Errorf("%v", err)
	}
}

// TestTwoProcesses reads two processes that inherited the same standard error: its description is listed once.
func TestTwoProcesses(t *testing.T) {
	it := newIter(t)
	a, b := start(t, "timers", "alarm"), start(t, "timers", "alarm")
	c, err := it.Collect(t.Context(), []int{a.pid, b.pid}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Processes) != 2 {
		t.Fatalf("%d processes", len(c.Processes))
	}
	fileOf := func(p *model.Process, fd int) int {
		i := slices.IndexFunc(p.FDs, func(f model.FD) bool { return f.Num == fd })
		return p.FDs[i].File
	}
	if one, two := fileOf(&c.Processes[0], 2), fileOf(&c.Processes[1], 2); one != two {
		t.Errorf("standard error is description %d and %d", one, two)
	}
	if one, two := fileOf(&c.Processes[0], 1), fileOf(&c.Processes[1], 1); one == two {
		t.Errorf("two pipes are both description %d", one)
	}
}

// BenchmarkCollect is the cost of one collection under a freeze.
func BenchmarkCollect(b *testing.B) {
	it := newIter(b)
	tg := start(b, "signals", casesOf(b, "signals")[0])
	g := tg.freeze(b)
	for b.Loop() {
		if _, err := it.Collect(b.Context(), []int{tg.pid}, g); err != nil {
			b.Fatal(err)
		}
	}
}

// A thread of a running tree may end after it was read. It is left out then, and a process without its leader has ended;
// of a tree that stands still neither is so.
func TestThreadsThatEnd(t *testing.T) {
	it := newIter(t)
	const nobody = 1<<22 - 1 // above kernel.pid_max
	for _, c := range []struct {
		stopped bool
		index   int
		object  string // of the fault, "" for none
	}{
		{false, -1, ""},
		{false, 0, pidName(nobody)},
		{true, -1, threadName(nobody)},
	} {
		raw, err := it.threads(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		i := (c.index + len(raw.threads)) % len(raw.threads)
		p := &model.Process{Pid: os.Getpid()}
		if i == 0 {
			p.Pid = nobody // the leader of the image
		}
		raw.threads[i].Tid = nobody
		raw.pid = os.Getpid()
		b := &builder{pids: []int{os.Getpid()}, now: readClocks(it.view), stopped: c.stopped, files: map[uint64]int{}}
		err = b.threads(raw, p)
		f := new(fault.Error)
		switch {
		case c.object == "" && (err != nil || len(p.Threads) != len(raw.threads)-1):
			t.Errorf("%+v: %v, %d of %d threads", c, err, len(p.Threads), len(raw.threads))
		case c.object != "" && (!errors.As(err, &f) || f.Code != fault.TargetGone || f.Object != c.object):
			t.Errorf("%+v: %v", c, err)
		}
	}
}
