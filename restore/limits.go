package restore

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/plan"
)

// raised are the limits that are as high as they may be while a process is built; those of the image come last of all. Whoever starts a restore may have set
// lower ones than the process had when it got what it has.
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

func limitBytes(l image.Limit) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, l.Cur), l.Max)
}
