package snapshot

import (
	"fmt"
	"os"
	"strings"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// readKernel describes the machine, except for what only the moment of the freeze tells.
func readKernel(v *view.View) (model.Kernel, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return model.Kernel{}, fmt.Errorf("read the kernel's name: %w", err)
	}
	boot, err := v.Boot()
	if err != nil {
		return model.Kernel{}, err
	}
	return model.Kernel{
		Release: unix.ByteSliceToString(u.Release[:]), Machine: unix.ByteSliceToString(u.Machine[:]),
		BootID: boot, CPUModel: cpuModel(),
	}, nil
}

// cpuModel is for messages only: "" if /proc/cpuinfo does not name it.
func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// readMoment adds what belongs to the moment of the freeze: the clocks, the vDSO and the register sets of the root
// process.
func (s *hostContext) readMoment(k *model.Kernel, root *model.Process) error {
	var wall unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &wall); err != nil {
		return fmt.Errorf("read the wall clock: %w", err)
	}
	now, err := s.view.Time.Clocks()
	if err != nil {
		return err
	}
	k.Realtime, k.Monotonic, k.Boottime = wall.Nano(), now.Monotonic, now.Boottime
	k.MonotonicOffset, k.BoottimeOffset = s.tree.Monotonic, s.tree.Boottime
	if len(root.Threads) > 0 {
		k.XFeatures = xfeatures(root.Threads[0].XState)
	}
	for _, v := range root.VMAs {
		if v.Kind != model.VMAVDSO {
			continue
		}
		pages := make([]byte, v.End-v.Start)
		if _, err := ptrace.ReadMemory(root.Pid, []ptrace.Range{{Addr: v.Start, Len: len(pages)}}, pages); err != nil {
			return fmt.Errorf("read the vDSO: %w", err)
		}
		k.VDSOHash = fmt.Sprintf("%016x", xxhash.Sum64(pages))
	}
	return nil
}
