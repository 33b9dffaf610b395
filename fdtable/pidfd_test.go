package fdtable

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

func pidfdOf(pid, flags int) func(*testing.T, string) []int {
	return func(t *testing.T, _ string) []int {
		fd, err := unix.PidfdOpen(pid, flags)
		must(t, err)
		return []int{fd}
	}
}

// leadsToUs checks that a signal that is sent through a pidfd reaches this process: none, which is sent like any.
func leadsToUs(t *testing.T, st *model.State, fds []int) {
	if of := st.Files[0].Of.(*model.PidFD); of.Pid != os.Getpid() {
		t.Errorf("it leads to pid %d", of.Pid)
	}
	must(t, unix.PidfdSendSignal(fds[0], 0, nil, 0))
}

func TestPidFDConformance(t *testing.T) {
	list := []specimen{
		{name: "of a process", kind: "pidfd", make: pidfdOf(os.Getpid(), 0), check: leadsToUs},
		{name: "that does not block", kind: "pidfd", make: pidfdOf(os.Getpid(), unix.PIDFD_NONBLOCK), check: leadsToUs},
	}
	if fd, err := unix.PidfdOpen(os.Getpid(), pidfdThread); err == nil { // Linux 6.9
		_ = unix.Close(fd)
		list = append(list, specimen{
			name: "of a first thread", kind: "pidfd", make: pidfdOf(os.Getpid(), pidfdThread), check: leadsToUs,
		})
	}
	conform(t, list)
}

// What is not of the tree is refused.
func TestPidFDRefused(t *testing.T) {
	child := exec.Command("sleep", "1000")
	must(t, child.Start())
	fd := pidfdOf(child.Process.Pid, 0)(t, "")[0]
	defer func() { _ = unix.Close(fd) }()
	refused := func(words ...string) {
		t.Helper()
		_, faults := captured(t, fd)
		if len(faults) != 1 {
			t.Fatalf("%d faults", len(faults))
		}
		mustFault(t, faults[0], fault.FDKind, words...)
	}
	refused("is not of the tree")
	must(t, child.Process.Kill())
	_ = child.Wait()
	refused("was waited for")
}
