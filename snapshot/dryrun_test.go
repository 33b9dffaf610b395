package snapshot

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// In a dry run there is no image that memory could be taken out of which somebody else has as well.
func TestDryRunWithMemoryOfOthers(t *testing.T) {
	tg := start(t, "files", "named-memory")
	name := fmt.Sprintf("/dev/shm/bpfckpt-test-%d", tg.pid())
	t.Cleanup(func() { _ = os.Remove(name) })
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	other := exec.Command("sleep", "60")
	other.ExtraFiles = []*os.File{f}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	r, err := Plan(t.Context(), tg.pid(), Options{Source: "proc"})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Plan.Refusals) > 0 || len(r.Plan.Steps) == 0 {
		t.Errorf("refusals %v, %d steps", r.Plan.Refusals, len(r.Plan.Steps))
	}
	tg.finish()
}
