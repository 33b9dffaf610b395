package buildid

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestOf(t *testing.T) {
	dir := t.TempDir()
	source, program := filepath.Join(dir, "a.c"), filepath.Join(dir, "a")
	if err := os.WriteFile(source, []byte("int main(void) { return 0; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-Wl,--build-id=sha1", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if id := Of(f); len(id) != 40 {
		t.Errorf("a program has build-id %q", id)
	}
	if id := Of(bytes.NewReader([]byte("#!/bin/sh\n"))); id != "" {
		t.Errorf("a script has build-id %q", id)
	}
}
