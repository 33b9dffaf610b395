package tracer

import (
	"fmt"
	"slices"

	"github.com/bpfckpt/bpfckpt/bpf"
)

// rawProcess is what the iterators said of one thread group.
type rawProcess struct {
	pid     int
	process *bpf.IterProcessRec
	mm      *bpf.IterMmRec
	actions *bpf.IterActionsRec
	threads []bpf.IterThreadRec // leader first, then ascending tid
	creds   map[uint64]rawCred  // by identity
	timers  []bpf.IterTimerRec
	vmas    []rawVMA
	mapped  map[uint64]rawMapped // by identity of the file
	fds     []rawFD
}

type rawCred struct {
	bpf.IterCredRec
	groups []uint32
}

type rawVMA struct {
	bpf.IterVmaRec
	name string
}

type rawMapped struct {
	bpf.IterMappedRec
	path string
}

type rawFD struct {
	bpf.IterFdRec
	path string
}

// takeTask reads the output of iter_task.
func (r *rawProcess) takeTask(b []byte) error {
	r.creds = map[uint64]rawCred{}
	err := eachRecord(b, func(kind bpf.IterRecKind, fixed, tail []byte) error {
		switch kind {
		case bpf.IterRecKindREC_PROCESS:
			r.process = new(*recordOf[bpf.IterProcessRec](fixed))
		case bpf.IterRecKindREC_THREAD:
			r.threads = append(r.threads, *recordOf[bpf.IterThreadRec](fixed))
		case bpf.IterRecKindREC_MM:
			if r.mm == nil {
				r.mm = new(*recordOf[bpf.IterMmRec](fixed))
			}
		case bpf.IterRecKindREC_ACTIONS:
			r.actions = new(*recordOf[bpf.IterActionsRec](fixed))
		case bpf.IterRecKindREC_CRED:
			c := rawCred{IterCredRec: *recordOf[bpf.IterCredRec](fixed)}
			c.groups = slices.Clone(words32(tail))
			r.creds[c.Cred] = c
		case bpf.IterRecKindREC_TIMER:
			r.timers = append(r.timers, *recordOf[bpf.IterTimerRec](fixed))
		default:
			return fmt.Errorf("%w: kind %d among threads", errRecord, kind)
		}
		return nil
	})
	slices.SortFunc(r.threads, func(a, b bpf.IterThreadRec) int { return r.rank(a) - r.rank(b) })
	return err
}

// rank orders threads: the leader before all others, then by tid.
func (r *rawProcess) rank(t bpf.IterThreadRec) int {
	if int(t.Tid) == r.pid {
		return 0
	}
	return int(t.Tid)
}

// takeVMAs reads the output of iter_vma.
func (r *rawProcess) takeVMAs(b []byte) error {
	r.mapped = map[uint64]rawMapped{}
	r.vmas = make([]rawVMA, 0, len(b)/sizeOf[bpf.IterVmaRec]())
	return eachRecord(b, func(kind bpf.IterRecKind, fixed, tail []byte) error {
		switch kind {
		case bpf.IterRecKindREC_MAPPED:
			m := rawMapped{IterMappedRec: *recordOf[bpf.IterMappedRec](fixed), path: zeroString(tail)}
			r.mapped[m.File] = m
		case bpf.IterRecKindREC_VMA:
			if name := zeroString(tail); name != uprobesName {
				r.vmas = append(r.vmas, rawVMA{IterVmaRec: *recordOf[bpf.IterVmaRec](fixed), name: name})
			}
		default:
			return fmt.Errorf("%w: kind %d among mappings", errRecord, kind)
		}
		return nil
	})
}

// uprobesName is the mapping in which the kernel steps over the instructions that uprobes replaced. No thread ever
// stops in it, and the kernel makes a new one when there are uprobes; so it is no part of the state, whoever's the
// uprobes were.
const uprobesName = "[uprobes]"

// takeFDs reads the output of iter_file.
func (r *rawProcess) takeFDs(b []byte) error {
	return eachRecord(b, func(kind bpf.IterRecKind, fixed, tail []byte) error {
		if kind != bpf.IterRecKindREC_FD {
			return fmt.Errorf("%w: kind %d among descriptors", errRecord, kind)
		}
		r.fds = append(r.fds, rawFD{IterFdRec: *recordOf[bpf.IterFdRec](fixed), path: zeroString(tail)})
		return nil
	})
}

// living returns the first thread that still has its memory, 0 if none has.
func (r *rawProcess) living() int {
	for i := range r.threads {
		if t := &r.threads[i]; t.Mm != 0 && t.ExitState == 0 {
			return int(t.Tid)
		}
	}
	return 0
}

// zeroString is a tail that ends with a zero byte as a string.
func zeroString(b []byte) string {
	if n := len(b); n > 0 && b[n-1] == 0 {
		b = b[:n-1]
	}
	return string(b)
}
