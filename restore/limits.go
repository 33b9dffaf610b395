package restore

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// limitNames are the options of ulimit(1) for the limits that can stand in the way, by RLIMIT_* number (include/uapi/asm-generic/resource.h).
var limitNames = [16]string{
	0: "CPU time (-t)", 1: "file size (-f)", 2: "data (-d)", 3: "stack (-s)", 4: "core file (-c)", 5: "resident memory (-m)", 6: "processes (-u)",
	7: "open files (-n)", 8: "locked memory (-l)", 9: "address space (-v)", 10: "file locks (-x)", 11: "pending signals (-i)", 12: "message queues (-q)",
	13: "nice (-e)", 14: "real-time priority (-r)", 15: "real-time CPU time (-R)",
}

// raised are the limits that are as high as they may be while a process is built; those of the image come last of all. Whoever starts a restore may have set
// lower ones than the process had when it got what it has.
var raised = []int{unix.RLIMIT_AS, unix.RLIMIT_DATA, unix.RLIMIT_NOFILE, unix.RLIMIT_MEMLOCK}

// needs says how high a limit must be for a process to be built: 0 if nothing needs it.
func needs(rec *image.Process, limit int) uint64 {
	need := uint64(0)
	switch limit {
	case unix.RLIMIT_NOFILE:
		if n := len(rec.FDs); n > 0 {
			need = uint64(rec.FDs[n-1].Num) + 1
		}
		need = max(need, uint64(freeNumber(rec.FDs))+1, scmMaxFD+1)
	case unix.RLIMIT_AS, unix.RLIMIT_DATA:
		need = bootSize + vdsoRoom
		for i := range rec.VMAs {
			v := &rec.VMAs[i]
			if limit == unix.RLIMIT_AS || !v.Shared && firstProt(v)&unix.PROT_WRITE != 0 {
				need += v.End - v.Start
			}
		}
	}
	return need
}

// checkLimits refuses an image whose processes need, or had, higher limits than this process can give them.
func (r *restorer) checkLimits() error {
	own, err := ownCreds()
	if err != nil {
		return err
	}
	if own.CapEff&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return nil
	}
	for i := range r.st.Processes {
		rec := &r.st.Processes[i]
		if rec.Zombie {
			continue
		}
		for n, l := range rec.Limits {
			var ours unix.Rlimit
			if err := unix.Getrlimit(n, &ours); err != nil {
				return fmt.Errorf("read resource limit %d: %w", n, err)
			}
			if want := max(l.Max, needs(rec, n)); want > ours.Max {
				return limitFault(rec, n, want, ours.Max)
			}
		}
	}
	return nil
}

func limitFault(rec *image.Process, limit int, want, ours uint64) error {
	return fault.New(fault.RestoreState, fmt.Sprintf("pid %d", rec.Pid), "its limit of %s is to be %s, and ours is %d", limitNames[limit], limitText(want), ours).
		WithRemedy("raise the hard limit of the shell that runs the restore, or give it CAP_SYS_RESOURCE")
}

func limitText(n uint64) string {
	if n == ^uint64(0) {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

// raiseLimits makes room for what is to be made in a process.
func raiseLimits(p *process) error {
	for _, n := range raised {
		var lim unix.Rlimit
		if err := unix.Prlimit(p.pid, n, nil, &lim); err != nil {
			return fmt.Errorf("read resource limit %d of %s: %w", n, p.object(), err)
		}
		lim.Max = max(lim.Max, needs(p.rec, n))
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
