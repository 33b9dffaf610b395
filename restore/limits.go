package restore

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// raised are the limits that are as high as they may be while a process is built; those of the image come last of all.
// Whoever starts a restore may have set lower ones than the process had when it got what it has.
var raised = []int{unix.RLIMIT_AS, unix.RLIMIT_DATA, unix.RLIMIT_NOFILE, unix.RLIMIT_MEMLOCK}

// raiseLimits makes room for what is to be made in a process.
func raiseLimits(p *process) error {
	for _, n := range raised {
		var lim unix.Rlimit
		if err := unix.Prlimit(p.pid, n, nil, &lim); err != nil {
			return fmt.Errorf("read resource limit %d of %s: %w", n, p.object(), err)
		}
		lim.Max = max(lim.Max, plan.LimitNeed(p.rec, n))
		lim.Cur = lim.Max
		if err := unix.Prlimit(p.pid, n, &lim, nil); err != nil {
			return fmt.Errorf("raise resource limit %d of %s: %w", n, p.object(), err)
		}
	}
	return nil
}

// raiseOwn lets this process write files of the size that those of the image have: memory without a name is one. The
// limit is put back at the end.
func (r *restorer) raiseOwn() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &lim); err != nil {
		return fmt.Errorf("read our limit of file sizes: %w", err)
	}
	if lim.Cur == lim.Max {
		return nil
	}
	r.j.onEnd(func() { _ = unix.Setrlimit(unix.RLIMIT_FSIZE, &lim) })
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: lim.Max, Max: lim.Max}); err != nil {
		return fmt.Errorf("raise our limit of file sizes: %w", err)
	}
	return nil
}

func limitBytes(l model.Limit) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, l.Cur), l.Max)
}
