package job

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestExitCode(t *testing.T) {
	if got := ExitCode(unix.WaitStatus(9)); got != 137 {
		t.Errorf("killed by SIGKILL: %d", got)
	}
	if got := ExitCode(unix.WaitStatus(3 << 8)); got != 3 {
		t.Errorf("exit(3): %d", got)
	}
}
