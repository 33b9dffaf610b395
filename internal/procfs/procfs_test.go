package procfs

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

func TestParseStat(t *testing.T) {
	const line = "42 (a) (b c)) S 1 42 40 34816 42 4194304 128 7 1 2 3 4 5 6 20 -5 3 0 110132 2990080 391 18446744073709551615 4096 8192 140728889890352 " +
		"0 0 0 0 6 0 1 0 0 17 1 99 2 0 8 9 100 200 300 400 500 600 700 256\n"
	s, err := ParseStat(strings.NewReader(line))
	if err != nil {
		t.Fatal(err)
	}
	want := Stat{
		Pid: 42, Comm: "a) (b c)", State: 'S', PPid: 1, Pgrp: 42, Session: 40, TTY: 34816, TPGid: 42, Flags: 4194304,
		MinFlt: 128, CMinFlt: 7, MajFlt: 1,
		CMajFlt: 2, UTime: 3, STime: 4, CUTime: 5, CSTime: 6, Priority: 20, Nice: -5, NumThreads: 3, StartTime: 110132,
		VSize: 2990080, RSS: 391,
		RSSLim: ^uint64(0), StartCode: 4096, EndCode: 8192, StartStack: 140728889890352, ExitSignal: 17, Processor: 1,
		RTPriority: 99, Policy: 2,
		GuestTime: 8, CGuestTime: 9, StartData: 100, EndData: 200, StartBrk: 300, ArgStart: 400, ArgEnd: 500,
		EnvStart: 600, EnvEnd: 700, ExitCode: 256,
	}
	if d := cmp.Diff(want, s); d != "" {
		t.Error(d)
	}
}

func TestParseMaps(t *testing.T) {
	const text = `563f50a00000-563f50a02000 r--p 00000000 fe:00 247766                     /usr/bin/a b
7f0000000000-7f0000001000 rwxs 00001000 00:01 5                          /dev/zero (deleted)
7f0000001000-7f0000002000 ---p 00000000 00:00 0 
7ffdff7bd000-7ffdff7de000 rw-p 00000000 00:00 0                          [stack]
`
	got, err := ParseMaps(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Map{
		{Start: 0x563f50a00000, End: 0x563f50a02000, Prot: 1, Major: 0xfe, Ino: 247766, Name: "/usr/bin/a b"},
		{
			Start: 0x7f0000000000, End: 0x7f0000001000, Prot: 7, Shared: true, Offset: 0x1000, Minor: 1, Ino: 5,
			Name: "/dev/zero (deleted)",
		},
		{Start: 0x7f0000001000, End: 0x7f0000002000},
		{Start: 0x7ffdff7bd000, End: 0x7ffdff7de000, Prot: 3, Name: "[stack]"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParseSmaps(t *testing.T) {
	const text = `563f50a00000-563f50a02000 r--p 00000000 fe:00 247766                     /a: b
Size:                  8 kB
KernelPageSize:        4 kB
Rss:                  12 kB
THPeligible:           0
ProtectionKey:         3
VmFlags: rd mr mw me 
`
	got, err := ParseSmaps(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Smap{{
		Map: Map{
			Start: 0x563f50a00000, End: 0x563f50a02000, Prot: 1, Major: 0xfe, Ino: 247766,
			Name: "/a: b",
		},
		KernelPageSize: 4096, RSS: 12288, ProtectionKey: 3, Flags: []string{"rd", "mr", "mw", "me"},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParseFDInfo(t *testing.T) {
	const common = "pos:\t5\nflags:\t02100002\nmnt_id:\t24\nino:\t3\n"
	got, err := ParseFDInfo(strings.NewReader(common +
		"lock:\t1: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF\nlock:\t2: LEASE  ACTIVE    READ 7 fe:00:9 3 8\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := FDInfo{Pos: 5, Flags: 0o2100002, MntID: 24, Ino: 3, Locks: []FDLock{
		{Type: "FLOCK", Mode: "WRITE", Pid: 359, Minor: 0x13, Ino: 11691, End: -1},
		{Type: "LEASE", Mode: "ACTIVE READ", Pid: 7, Major: 0xfe, Ino: 9, Start: 3, End: 8},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	got, err = ParseFDInfo(strings.NewReader(common + "eventfd-count:                3\neventfd-id: 4\n"))
	if err != nil || got.Kind != "eventfd" || len(got.Lines) != 2 || got.Lines[0] != (Line{"eventfd-count", "3"}) {
		t.Errorf("eventfd: %+v, %v", got, err)
	}
	got, err = ParseFDInfo(strings.NewReader(common +
		"tfd:        5 events:       19 data:                5  pos:0 ino:61af sdev:7\n"))
	if err != nil || got.Kind != "epoll" || len(got.Lines) != 1 {
		t.Errorf("epoll: %+v, %v", got, err)
	}
}

func TestMapAt(t *testing.T) {
	d := Pid(os.Getpid())
	maps, err := d.Maps()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range maps {
		for _, addr := range []uint64{m.Start, m.End - 1} {
			for how, look := range map[string]func(uint64) (*Map, error){"asked": d.MapAt, "searched": d.searchMaps} {
				got, err := look(addr)
				if m.Name == vsyscall && got == nil {
					continue
				}
				if err != nil || got == nil || m.Name == "[stack]" != (got.Name == "[stack]") {
					t.Fatalf("%s: %#x is in %+v, not %+v (%v)", how, addr, got, m, err)
				}
				// The runtime's own mappings may grow meanwhile, and merge.
				if got.Start > addr || got.End <= addr || got.HasFile() && *got != m {
					t.Errorf("%s: %#x is in %+v, not %+v", how, addr, got, m)
				}
			}
		}
	}
	if got, err := d.MapAt(1); got != nil || err != nil {
		t.Errorf("the first page: %+v, %v", got, err)
	}
	if _, err := Pid(1 << 30).MapAt(1); err == nil {
		t.Error("a process that is not there has mappings")
	}
}

func TestParseCall(t *testing.T) {
	got, err := ParseCall(strings.NewReader("232 0x3 0x7f10 0x1 0xffffffff 0x0 0x8 0x7ffd0000 0x7f00c0de\n"))
	want := Call{
		Nr: 232, Args: [6]uint64{3, 0x7f10, 1, 0xffffffff, 0, 8}, SP: 0x7ffd0000, PC: 0x7f00c0de,
	}
	if err != nil || got == nil || *got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, none := range []string{"running\n", "-1 0x7ffd0000 0x7f00c0de\n"} {
		if got, err := ParseCall(strings.NewReader(none)); got != nil || err != nil {
			t.Errorf("%q: %+v, %v", none, got, err)
		}
	}
}

func TestParseTimers(t *testing.T) {
	got, err := ParseTimers(strings.NewReader("ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n" +
		"ID: 0\nsignal: 34/0\nnotify: signal/tid.2635\nClockID: -22\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Timer{
		{ID: 1, Signo: 60, Value: 0x7fff86e452a8, Target: 2634},
		{Signo: 34, Notify: 4, Target: 2635, Clock: -22},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParseNUMAMaps(t *testing.T) {
	got, err := ParseNUMAMaps(strings.NewReader("563f50a00000 default file=/bin/a mapped=2\n7f00 prefer (many)=static:0-1 anon=1\n7f01 prefer:1\n" +
		"7f02 interleave=relative:0 heap\n7f03 weighted interleave:0\n7f04 local\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []NUMA{
		{0x563f50a00000, "default"},
		{0x7f00, "prefer (many)=static:0-1"},
		{0x7f01, "prefer:1"},
		{0x7f02, "interleave=relative:0"},
		{0x7f03, "weighted interleave:0"},
		{0x7f04, "local"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestUnknownIsRefused gives every strict parser something from a later kernel.
func TestUnknownIsRefused(t *testing.T) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	limits, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		t.Fatal(err)
	}
	const common = "pos:\t5\nflags:\t02\nmnt_id:\t24\nino:\t3\n"
	cases := map[string]error{
		"stat field": second(ParseStat(strings.NewReader("1 (a) S" + strings.Repeat(" 1", 50)))),
		"status key": second(ParseStatus(strings.NewReader(string(status) + "NewKey:\t1\n"))),
		"status mask": second(ParseStatus(strings.NewReader(string(status) +
			"untag_mask:\t0x80000fffffffffff\n"))),
		"status short": second(ParseStatus(strings.NewReader("Name:\ta\n"))),
		"maps letter":  second(ParseMaps(strings.NewReader("1000-2000 r-zp 0 0:0 0\n"))),
		"maps empty":   second(ParseMaps(strings.NewReader("2000-1000 r--p 0 0:0 0\n"))),
		"smaps key":    second(ParseSmaps(strings.NewReader("1000-2000 r--p 0 0:0 0\nNew:  0 kB\n"))),
		"smaps unit":   second(ParseSmaps(strings.NewReader("1000-2000 r--p 0 0:0 0\nRss:  0 MB\n"))),
		"smaps order":  second(ParseSmaps(strings.NewReader("Rss:  0 kB\n"))),
		"fdinfo key":   second(ParseFDInfo(strings.NewReader(common + "new: 1\n"))),
		"fdinfo mixed": second(ParseFDInfo(strings.NewReader(common + "eventfd-count: 1\nsigmask: 0\n"))),
		"fdinfo lock": second(ParseFDInfo(strings.NewReader(common +
			"lock:\t1: NEWLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF\n"))),
		"fdinfo short": second(ParseFDInfo(strings.NewReader("pos:\t5\n"))),
		"limits new": second(ParseLimits(strings.NewReader(string(limits) +
			"Max new things            1                    2                    units\n"))),
		"limits few":          second(ParseLimits(strings.NewReader("Limit\n"))),
		"call cut":            second(ParseCall(strings.NewReader("232 0x3 0x7f10\n"))),
		"call value":          second(ParseCall(strings.NewReader("232 0x3 0x7f10 0x1 0x0 0x0 0x8 0x7ffd0000 here\n"))),
		"timers key":          second(ParseTimers(strings.NewReader("ID: 1\nnew: 1\n"))),
		"timers cut":          second(ParseTimers(strings.NewReader("ID: 1\n"))),
		"timers notify":       second(ParseTimers(strings.NewReader("ID: 1\nsignal: 1/0\nnotify: pigeon/pid.1\n"))),
		"numa policy":         second(ParseNUMAMaps(strings.NewReader("1000 localise:1\n"))),
		"io key":              second(ParseIO(strings.NewReader("new: 1\n"))),
		"auxv without an end": second(ParseAuxv(strings.NewReader(strings.Repeat("\x01", 32)))),
	}
	for name, err := range cases {
		var format *errFormat
		if !errors.As(err, &format) {
			t.Errorf("%s: got %v, not a refusal", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestLive parses every file of every process of this machine.
func TestLive(t *testing.T) {
	entries, err := Dir("/proc").numbersIn()
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, pid := range entries {
		if err := parseAll(pid); err != nil {
			var f *fault.Error
			if errors.As(err, &f) && (f.Code == fault.TargetGone || f.Code == fault.NoRights) {
				continue
			}
			t.Errorf("pid %d: %v", pid, err)
		}
		checked++
	}
	if checked == 0 {
		t.Error("no process could be read")
	}
}

func parseAll(pid int) error {
	d := Pid(pid)
	tasks, err := d.Tasks()
	if err != nil {
		return err
	}
	st, err := d.Stat()
	if err != nil || st.Flags&PFKThread != 0 || st.State == 'Z' {
		return err
	}
	checks := []error{
		second(d.Status()), second(d.Maps()), second(d.Smaps()), second(d.Auxv()), second(d.Limits()),
		second(d.Timers()), second(d.NUMAMaps()),
		second(d.Personality()), second(d.OOMScoreAdj()), second(d.TimerSlack()), second(d.IO()), second(d.Cgroups()),
		second(d.Comm()),
		second(d.Args()), second(d.Label()), second(d.Link("cwd")), second(d.Link("exe")), second(d.Stat2("root")),
	}
	for _, kind := range Namespaces {
		checks = append(checks, second(d.NS(kind)))
	}
	for _, tid := range tasks {
		th := Task(pid, tid)
		checks = append(checks, second(th.Stat()), second(th.Status()), second(th.Comm()),
			second(Pid(tid).TimerSlack()), second(th.Children()))
	}
	fds, err := d.FDs()
	if err != nil {
		return err
	}
	for _, fd := range fds {
		checks = append(checks, second(d.FDInfo(fd)))
	}
	for _, err := range checks {
		var f *fault.Error
		// a descriptor closed meanwhile
		if err != nil && !(errors.As(err, &f) && f.Code == fault.ProcRead && errors.Is(err, os.ErrNotExist)) {
			return err
		}
	}
	return nil
}

func (d Dir) numbersIn() ([]int, error) {
	entries, err := os.ReadDir(string(d))
	var out []int
	for _, e := range entries {
		var n int
		if decimal(e.Name(), &n) {
			out = append(out, n)
		}
	}
	return out, err
}

func TestFaultsNameTheirObject(t *testing.T) {
	_, err := Task(1<<30, 7).Stat()
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.TargetGone || f.Object != fmt.Sprintf("thread 7 of pid %d", 1<<30) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkParseSmaps(b *testing.B) {
	record := `563f50a00000-563f50a02000 r--p 00000000 fe:00 247766                     /usr/bin/sleep
Size:                  8 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   8 kB
Pss:                   8 kB
Shared_Clean:          0 kB
Private_Clean:         8 kB
Anonymous:             0 kB
Swap:                  0 kB
Locked:                0 kB
THPeligible:           0
VmFlags: rd mr mw me 
`
	text := strings.Repeat(record, 10000)
	for b.Loop() {
		if _, err := ParseSmaps(strings.NewReader(text)); err != nil {
			b.Fatal(err)
		}
	}
}
