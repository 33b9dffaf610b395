package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/bpfckpt/bpfckpt/agent"
	"github.com/bpfckpt/bpfckpt/tracer"
)

var controlSequence = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// TestWatchPage looks at the view on terminals of several sizes: it does not scroll, no line is too long, and 80
// columns hold all figures.
func TestWatchPage(t *testing.T) {
	s := &screen{now: agent.Status{
		Pid: 4194304, Comm: "a-longer-name15", SinceUS: 3.6e9, RSSBytes: 123 << 30,
		Stats: tracer.Stats{
			Events: 123456789, Lost: 1234567, Repairs: 12345, Drift: 1234, Groups: 1000, Threads: 10000, Maps: 100000,
			FDs: 100000, Handlers: 1000,
			Method: "tracepoint", DL: 12,
		},
	}, rates: rates{events: 123456, rss: -5e9, faults: 1e5}}
	for i := range 100 {
		s.recent = append(s.recent, textLine(fmt.Sprintf("4711/4711 openat %d %q", i, strings.Repeat("long/", 60))))
	}
	for _, size := range []struct{ width, height int }{{80, 24}, {200, 50}, {30, 5}, {1, 1}, {10, 3}} {
		text := controlSequence.ReplaceAllString(string(s.page(size.width, size.height)), "")
		lines := strings.Split(text, "\r\n")
		if len(lines) != size.height {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for i, line := range lines {
			if utf8.RuneCountInString(line) > size.width {
				t.Errorf("%v: too long: %q", size, line)
			}
			if size.width >= 80 && i < 5 && strings.HasSuffix(line, "…") {
				t.Errorf("%v: cut off: %q", size, line)
			}
		}
	}
}
