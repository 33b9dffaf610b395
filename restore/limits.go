package restore

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// raised are the limits that are as high as they may be while a process is built; those of the image come last of all.
// Whoever starts a restore may have set lower ones than the process had when it got what it has.
var raised = []int{unix.RLIMIT_AS, unix.RLIMIT_DATA, unix.RLIMIT_NOFILE, unix.RLIMIT_MEMLOCK}

// raiseLimits makes room for what is to be made in a process.
func (p *process) raiseLimits() error {
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
func raiseOwn(j *journal) error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &lim); err != nil {
		return fmt.Errorf("read our limit of file sizes: %w", err)
	}
	if lim.Cur == lim.Max {
		return nil
	}
	j.onEnd(func() { _ = unix.Setrlimit(unix.RLIMIT_FSIZE, &lim) })
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: lim.Max, Max: lim.Max}); err != nil {
		return fmt.Errorf("raise our limit of file sizes: %w", err)
	}
	return nil
}

func limitBytes(l model.Limit) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, l.Cur), l.Max)
}

// limit sets the limits of the image, which hold from here on.
func (p *process) limit(b *batch) error {
	for i, l := range p.rec.Limits {
		if i == rlimitSigpending && manyPending(p.rec) {
			var own unix.Rlimit
			if err := unix.Getrlimit(i, &own); err != nil {
				return fmt.Errorf("read our limit of pending signals: %w", err)
			}
			l = model.Limit{Cur: own.Max, Max: own.Max} // until limitPending
		}
		b.callWant(p.limitVerdict(i), fmt.Sprintf("set limit %d", i), unix.SYS_PRLIMIT64, 0, i,
			inBytes(limitBytes(l)), 0)
	}
	return nil
}

// rlimitSigpending is RLIMIT_SIGPENDING (getrlimit(2)).
const rlimitSigpending = 11

// limitPending sets the limit of pending signals when all are pending: more can be, of timers too, than its limit
// allows by now.
func (p *process) limitPending() error {
	if !manyPending(p.rec) {
		return nil // it is set
	}
	b := p.batch(p.lead)
	b.callWant(p.limitVerdict(rlimitSigpending), "set the limit of pending signals", unix.SYS_PRLIMIT64, 0,
		rlimitSigpending, inBytes(limitBytes(p.rec.Limits[rlimitSigpending])), 0)
	return b.done()
}

// manyPending reports whether a process has anything that counts as a pending signal.
func manyPending(rec *model.Process) bool {
	return len(rec.Pending) > 0 || len(rec.Timers) > 0 ||
		slices.ContainsFunc(rec.Threads, func(t model.Thread) bool { return len(t.Pending) > 0 })
}

// limitVerdict explains the one way in which setting a limit fails.
func (p *process) limitVerdict(limit int) func(int64) error {
	return func(result int64) error {
		if err := errnoOf(result); err != nil {
			return fault.New(fault.RestoreState, p.object(), "resource limit %d was higher than ours: %w", limit, err).
				WithRemedy("raise the hard limit of the shell that runs the restore, or give it CAP_SYS_RESOURCE")
		}
		return nil
	}
}
