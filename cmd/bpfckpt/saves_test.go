package main

import (
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/agent"
)

// The interval achieved is told once there is one.
func TestSavedText(t *testing.T) {
	s := agent.Saves{Dir: "job", NextUS: 2_000_000}
	if text := savedText(&s); strings.Contains(text, "achieved") {
		t.Errorf("before the second image: %s", text)
	}
	s.RealUS = 3_000_000
	if text := savedText(&s); !strings.HasSuffix(text, "every 2s (achieved: 3s)") {
		t.Error(text)
	}
}
