package snapshot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// addScheduling adds what is the same question whoever the source is: the autogroups of sessions and, where the kernel
// has them, utilization clamps.
func addScheduling(processes []model.Process) error {
	clamps := hasClamps()
	for i := range processes {
		p := &processes[i]
		if p.Zombie {
			continue
		}
		if p.Sid == p.Pid {
			var err error
			if p.Autogroup, err = procfs.Pid(p.Pid).AutogroupNice(); err != nil {
				return err
			}
		}
		for j := range p.Threads {
			if !clamps {
				break
			}
			attr, err := unix.SchedGetAttr(p.Threads[j].Tid, 0)
			if err != nil {
				return fmt.Errorf("read the utilization clamp of thread %d: %w", p.Threads[j].Tid, err)
			}
			p.Threads[j].Sched.Clamp = &model.Clamp{Min: attr.Util_min, Max: attr.Util_max}
		}
	}
	return nil
}

// hasClamps tells whether the kernel clamps utilizations: then our own main thread has the largest one, unless somebody
// clamped that to zero.
func hasClamps() bool {
	attr, err := unix.SchedGetAttr(os.Getpid(), 0)
	return err == nil && attr.Util_max != 0
}
