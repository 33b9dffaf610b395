package fault

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// What several objects have in common is said once.
func TestLinesAreGrouped(t *testing.T) {
	var l List
	for fd := range 9 {
		l = append(l, New(FDSocket, fmt.Sprintf("fd %d of pid 7", fd), "it is a socket"))
	}
	l = append(l, New(Mapping, "mapping 1-2 of pid 7", "it maps a device"))
	lines := l.Lines()
	if len(lines) != 2 || !strings.Contains(lines[0], "fd 0 of pid 7, fd 1 of pid 7") ||
		!strings.Contains(lines[0], "and 3 more: it is a socket; ") {
		t.Errorf("%q", lines)
	}
}

// Codes are an API, and what the table says of them is printed in error lines.
func TestTable(t *testing.T) {
	form := regexp.MustCompile(`^E_[A-Z][A-Z0-9_]*$`)
	known := map[Class]bool{}
	for _, e := range ExitCodes() {
		known[e.Class] = true
	}
	seen := map[Code]bool{}
	for _, e := range All() {
		if seen[e.Code] {
			t.Errorf("%s is there twice", e.Code)
		}
		seen[e.Code] = true
		if !form.MatchString(string(e.Code)) {
			t.Errorf("%q is not of the form E_WORDS", e.Code)
		}
		if !known[e.Class] || e.Class == 0 {
			t.Errorf("%s: class %d is no exit code of a fault", e.Code, e.Class)
		}
		for _, text := range []string{e.Title, e.Cause, e.Remedy} {
			if text == "" || strings.ContainsAny(text, "\n\t") || strings.TrimSpace(text) != text {
				t.Errorf("%s: %q is not one line of text", e.Code, text)
			}
		}
		if !strings.HasSuffix(e.Cause, ".") {
			t.Errorf("%s: the cause is not a full sentence", e.Code)
		}
		if strings.HasSuffix(e.Remedy, ".") {
			t.Errorf("%s: the remedy ends an error line and has no full stop", e.Code)
		}
	}
}

func TestErrorIsOneLine(t *testing.T) {
	e := New(NoSuchPid, "pid 12", "two\nlines")
	if got, want := e.Error(), "E_NO_SUCH_PID: pid 12: two lines; check the pid with ps"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
