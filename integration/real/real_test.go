package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// What the table promises can be told without running anything.
func TestPrograms(t *testing.T) {
	seen := map[string]bool{}
	through := 0
	for _, p := range programs {
		if p.name == "" || seen[p.name] || strings.ContainsAny(p.name, "/|") {
			t.Errorf("%q is no name for a row and a directory, or there are two of it", p.name)
		}
		seen[p.name] = true
		if p.command == "" || len(p.needs) == 0 {
			t.Errorf("%s: it has no command, or needs no package", p.name)
		}
		for _, need := range p.needs {
			if what, pkg, ok := strings.Cut(need, "="); !ok || what == "" || pkg == "" {
				t.Errorf("%s needs %q: not what must be there, and the package that brings it", p.name, need)
			}
		}
		if p.refused == "" {
			through++
		}
	}
	const least = 40
	if through < least {
		t.Errorf("%d programs must come through: fewer than %d", through, least)
	}
	for _, name := range []string{
		"ffmpeg", "octave", "gnuplot", "emacs", "scikit-learn", "valgrind", "upgraded executable", "go program", "java",
		"R", "node", "sbcl",
	} {
		if !seen[name] {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestOutcomeDiffers(t *testing.T) {
	want := outcome{status: 20, files: map[string]string{"a": "1", "b": "2"}}
	for name, c := range map[string]struct {
		have outcome
		same bool
	}{
		"the same":       {outcome{20, map[string]string{"b": "2", "a": "1"}}, true},
		"another status": {outcome{0, want.files}, false},
		"a file more":    {outcome{20, map[string]string{"a": "1", "b": "2", "c": "3"}}, false},
		"a file less":    {outcome{20, map[string]string{"a": "1"}}, false},
		"another file":   {outcome{20, map[string]string{"a": "1", "b": "3"}}, false},
	} {
		if diff := c.have.differs(want); (diff == "") != c.same {
			t.Errorf("%s: %q", name, diff)
		}
	}
}

// A table keeps the lines of programs that do not run, whatever became of them.
func TestTableKeepsLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table.md")
	results := make([]result, len(modes))
	for i, r := range []row{
		{program: programs[0], results: results},
		{program: programs[1], results: append([]result{failure("it hangs")}, results[1:]...)},
		{program: programs[1], results: results},
	} {
		doc, err := readTable(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := doc.set(r); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(doc.lines[r.name], failedMark); got != i%2 {
			t.Errorf("after %d runs: %d failures in %q", i+1, got, doc.lines[r.name])
		}
	}
	doc, err := readTable(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs[:2] {
		if doc.lines[p.name] == "" {
			t.Errorf("the line of %s is gone", p.name)
		}
	}
}
