package main

import (
	"strings"
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/snapshot"
)

// The interval achieved is that of the last few images, whatever was asked for.
func TestIntervalAchieved(t *testing.T) {
	s := saves{Dir: "job", NextUS: 2_000_000}
	s.add(outcome{res: &snapshot.Result{}}, time.Second)
	if text := savedText(&s); strings.Contains(text, "achieved") {
		t.Errorf("after one image: %s", text)
	}
	for i := range 3 * savesKept {
		s.add(outcome{res: &snapshot.Result{}}, time.Minute+time.Duration(i)*3*time.Second)
	}
	if s.RealUS != 3_000_000 {
		t.Errorf("%d us from one image to the next", s.RealUS)
	}
	if text := savedText(&s); !strings.HasSuffix(text, "every 2s (achieved: 3s)") {
		t.Error(text)
	}
}
