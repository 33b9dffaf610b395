package plan

import (
	"fmt"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// limitNames are the options of ulimit(1) for the limits that can stand in the way, by RLIMIT_* number
// (include/uapi/asm-generic/resource.h).
var limitNames = [16]string{
	0: "CPU time (-t)", 1: "file size (-f)", 2: "data (-d)", 3: "stack (-s)", 4: "core file (-c)",
	5: "resident memory (-m)", 6: "processes (-u)",
	7: "open files (-n)", 8: "locked memory (-l)", 9: "address space (-v)", 10: "file locks (-x)",
	11: "pending signals (-i)", 12: "message queues (-q)",
	13: "nice (-e)", 14: "real-time priority (-r)", 15: "real-time CPU time (-R)",
}

// Numbers of limits (include/uapi/asm-generic/resource.h).
const (
	limitData   = 2
	limitNofile = 7
	limitAS     = 9
)

// Sizes in bytes. The boot area is where the code of a restore, its records and their data lie while a process is
// built.
const (
	BootSize = 256 << 10
	VDSORoom = 64 << 10 // more than the vDSO and its data take together
)

// MaxFDs is SCM_MAX_FD (include/net/scm.h), the most descriptors that are handed over at once.
const MaxFDs = 253

// LimitNeed says how high a limit, by RLIMIT_* number, must be for a process to be built: 0 if nothing needs it.
func LimitNeed(rec *model.Process, limit int) uint64 {
	need := uint64(0)
	switch limit {
	case limitNofile:
		if n := len(rec.FDs); n > 0 {
			need = uint64(rec.FDs[n-1].Num) + 1
		}
		need = max(need, uint64(FreeNumber(rec.FDs))+1, MaxFDs+1)
	case limitAS, limitData:
		need = BootSize + VDSORoom
		for i := range rec.VMAs {
			v := &rec.VMAs[i]
			if limit == limitAS || !v.Shared && FirstProt(v)&protWrite != 0 {
				need += v.End - v.Start
			}
		}
	}
	return need
}

// FreeNumber is the lowest descriptor number that is not in the list, which is ascending: a process whose descriptors
// reach up to its limit has none above.
func FreeNumber(fds []model.FD) int {
	for i, fd := range fds {
		if fd.Num != i {
			return i
		}
	}
	return len(fds)
}

// FirstProt is the protection a mapping is made with (PROT_*). A private mapping that was writable once stays accounted
// for (ac) when it no longer is; only by the same detour do the books agree.
func FirstProt(v *model.VMA) uint32 {
	if v.Has("ac") && !v.Shared && !v.Has("nr") {
		return v.Prot | protRead | protWrite
	}
	return v.Prot
}

// Protections (asm-generic/mman-common.h).
const (
	protRead  = 1
	protWrite = 2
	protExec  = 4
)

// limits refuses a process that needs, or had, higher limits than whoever restores can give it.
func (b *builder) limits(p *model.Process) {
	if b.host.capable(capSysResource) {
		return
	}
	for i, l := range p.Limits {
		if want := max(l.Max, LimitNeed(p, i)); want > b.host.Limits[i].Max {
			b.refuse(fault.New(fault.RestoreState, pidName(p.Pid), "its limit of %s is to be %s, and ours is %s",
				limitNames[i], limitText(want), limitText(b.host.Limits[i].Max)).
				WithRemedy("raise the hard limit of the shell that runs bpfckpt, or give it CAP_SYS_RESOURCE"))
		}
	}
}

func limitText(n uint64) string {
	if n == ^uint64(0) {
		return "unlimited"
	}
	return fmt.Sprint(n)
}
