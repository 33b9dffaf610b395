package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

func TestTexts(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{bytesText(int64(0)), "0 B"},
		{bytesText(int64(1023)), "1023 B"},
		{bytesText(int64(1536)), "1.5 KiB"},
		{bytesText(uint64(1<<20 - 1)), "1.0 MiB"},
		{bytesText(^uint64(0)), "16.0 EiB"},
		{durationText(1234 * time.Nanosecond), "1µs"},
		{durationText(1234567 * time.Nanosecond), "1.23ms"},
		{durationText(12345 * time.Millisecond), "12.35s"},
		{durationText(3661500 * time.Millisecond), "1h1m2s"},
		{cpuList([]uint64{0b1011}), "0-1,3"},
		{cpuList([]uint64{1 << 63, 1}), "63-64"},
		{cpuList(nil), ""},
		{signalSet(0), "-"},
		{signalSet(1<<0 | 1<<1), "HUP,INT"},
		{signalSet(^uint64(0)), "all"},
		{signalSet(^uint64(1 << 8)), "all but KILL"},
		{signalName(34), "SIGRT2"},
		{signalName(15), "SIGTERM"},
		{idText(1, 1, 1), "1"},
		{idText(1, 2, 1), "1/2/1"},
		{policyName(2), "rr"},
		{policyName(99), "99"},
		{openFlags(unix.O_WRONLY | unix.O_APPEND), "write,append"},
		{openFlags(unix.O_RDWR | unix.O_SYNC), "read,write,sync"},
		{actionFlags(0x4 | 0x10000000), "siginfo,restart"},
		{actionFlags(0x40), "0x40"},
		{limitText(^uint64(0)), "unlimited"},
		{table([][]string{{"A", "B"}, {"long", "x"}}), "A     B\nlong  x\n"},
		{indent("a\n\nb\n"), "  a\n\n  b\n"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	verbs := []string{"snap", "restore", "run", "inspect"}
	for word, want := range map[string]string{
		"sanp": "snap", "resotre": "restore", "rest": "restore", "inspct": "inspect", "runn": "run", "frobnicate": "",
		"x": "", "": "",
	} {
		got := didYouMean(word, verbs)
		if want != "" {
			want = " (did you mean " + want + "?)"
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

// The one mapping from errors to exit codes.
func TestExitCode(t *testing.T) {
	gone := fault.New(fault.TargetGone, "pid 1", "gone")
	blocked := fault.New(fault.Mapping, "pid 1", "blocked")
	for _, c := range []struct {
		err   error
		code  int
		lines int
	}{
		{nil, 0, 0},
		{status(7), 7, 0},
		{gone, 1, 1},
		{fmt.Errorf("take a snapshot: %w", gone), 1, 1},
		{fault.List{blocked, gone}, 4, 2},
		{fmt.Errorf("check: %w", fault.List{blocked, gone}), 4, 2},
		{errors.New("what is this"), 1, 1},
		{fmt.Errorf("restore: %w", context.Canceled), 130, 1},
		{fault.New(fault.RestoreStep, "restore", "x: %w", context.Canceled), 130, 1},
	} {
		code, faults := exitCode(c.err)
		if code != c.code || len(faults) != c.lines {
			t.Errorf("%v: exit code %d with %d lines, want %d with %d", c.err, code, len(faults), c.code, c.lines)
		}
	}
}

// Each kind of row, for a process that has everything.
func TestRows(t *testing.T) {
	p := &model.Process{
		Pid: 7,
		Threads: []model.Thread{
			{Tid: 7, Comm: "main", SigMask: 2, AltStack: model.AltStack{Sp: 0x1000, Size: 0x2000}},
			{Tid: 8, Comm: "io"},
		},
		Actions: []model.SigAction{{Signal: 2, Handler: 1}, {Signal: 15, Handler: 0x400000, Flags: 4, Mask: 1}},
		ITimers: [3]model.ITimer{{Value: 1e9, Interval: 2e9}},
		Timers:  []model.PosixTimer{{ID: 3, Clock: 1, Signo: 34, Tid: 8}},
		Usage:   model.Usage{UTime: 1e9, MaxRSS: 1 << 20},
		Carried: model.Usage{UTime: 2e9, MaxRSS: 2 << 20},
	}
	for _, c := range []struct {
		rows [][]string
		want []string
	}{
		{threadRows(nil, p), []string{"main", "INT", "1000+2000", "io"}},
		{handlerRows(nil, p), []string{"SIGINT", "ignore", "400000", "siginfo", "HUP"}},
		{timerRows(nil, p), []string{"interval real", "SIGALRM", "posix 3, clock 1", "disarmed", "SIGRT2 to thread 8"}},
		{limitRows(nil, p), []string{"open files"}},
		{credentialRows(nil, p), []string{"none"}},
		{usageRows(nil, p), []string{"3s", "2.0 MiB"}},
	} {
		text := table(c.rows)
		for _, w := range c.want {
			if !strings.Contains(text, w) {
				t.Errorf("no %q in\n%s", w, text)
			}
		}
	}
}
