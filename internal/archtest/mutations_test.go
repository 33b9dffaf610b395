package archtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// scripts/mutations takes an hour, so it is not run with every change: but that each of its rows still changes one line
// is known at once.
func TestMutationsApply(t *testing.T) {
	root := repoRoot(t)
	table, err := os.ReadFile(filepath.Join(root, "scripts/mutations.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	for row := range strings.Lines(string(table)) {
		if strings.HasPrefix(row, "#") {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(row, "\n"), "\t")
		if len(cells) < 6 {
			t.Errorf("not a row: %q", row)
			continue
		}
		file, expression := filepath.Join(root, cells[2]), cells[3]
		before, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%s: %v", cells[1], err)
			continue
		}
		after, err := exec.Command("sed", "-e", expression, file).Output()
		if err != nil {
			t.Errorf("%s: sed: %v", cells[1], err)
			continue
		}
		if n := changedLines(before, after); n != 1 {
			t.Errorf("%s: it changes %d lines of %s", cells[1], n, cells[2])
		}
	}
}

// changedLines counts the lines that differ, or have gone.
func changedLines(before, after []byte) int {
	a, b := bytes.Split(before, []byte("\n")), bytes.Split(after, []byte("\n"))
	n := len(a) - len(b)
	for len(a) > 0 && len(b) > 0 && bytes.Equal(a[0], b[0]) {
		a, b = a[1:], b[1:]
	}
	if n != 0 {
		return n
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			n++
		}
	}
	return n
}
