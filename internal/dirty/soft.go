package dirty

import (
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/pagemap"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
)

// soft follows writes by soft-dirty bits (Documentation/admin-guide/mm/soft-dirty.rst). The kernel makes new mappings
// soft-dirty as a whole and marks pages that mremap(2) moves; a program executed anew has only new mappings, and forked
// children are not followed. Nobody else may clear the bits of a process meanwhile.
type soft struct {
	base
	armed map[int]uint64 // start times by pid
}

func newSoft() *soft { return &soft{armed: map[int]uint64{}} }

func (*soft) Name() string                    { return SoftDirty }
func (*soft) Attach(*ptrace.Group, int) error { return nil }

// Live is false: between reading the bits and clearing them a running process writes unseen.
func (*soft) Live(int) bool { return false }

func (t *soft) Serves(pid int) (bool, string) { return t.follows(pid), "" }

// follows reports whether the bits of a process were cleared by us.
func (t *soft) follows(pid int) bool {
	start, ok := t.armed[pid]
	if !ok {
		return false
	}
	st, err := procfs.Pid(pid).Stat()
	return err == nil && st.StartTime == start
}

func (t *soft) Arm(pid int, _ []Span) error {
	st, err := procfs.Pid(pid).Stat()
	if err != nil {
		return err
	}
	delete(t.armed, pid)
	if err := clearRefs(pid); err != nil {
		return err
	}
	t.armed[pid] = st.StartTime
	return nil
}

// Rearm is for a process that stands still.
func (t *soft) Rearm(pid int, spans []Span, sink func(Run) error) error {
	err := t.Dirty(pid, spans, func(r Run) error {
		if r.State != Written {
			return nil
		}
		return sink(r)
	})
	if err != nil {
		return err
	}
	return t.Arm(pid, nil)
}

func (t *soft) Dirty(pid int, spans []Span, sink func(Run) error) error {
	if !t.follows(pid) {
		return Everything(pid, spans, sink)
	}
	m, err := pagemap.Open(pid)
	if err != nil {
		return err
	}
	defer m.Close()
	m.UseEntries()
	j := joiner{sink: sink}
	for _, s := range spans {
		q := pagemap.Content(s.Anon)
		q.Return |= pagemap.SoftDirty | pagemap.Swapped | pagemap.Exclusive
		if err := m.Walk(s.Start, s.End, q, func(r pagemap.Region) error { return j.add(softRun(r)) }); err != nil {
			return err
		}
	}
	return j.flush()
}

// softRun classifies pages by their entries. The zero page is not soft-dirty where it has taken the place of a page
// that vanished and was read again, and entries do not name it; but it is never exclusive. Pages shared with a forked
// child are not either, and are copied once more.
func softRun(r pagemap.Region) Run {
	out := Run{r.Start, r.End, Written}
	switch {
	case r.Categories&pagemap.Guard != 0:
		out.State = Guard
	case r.Categories&pagemap.SoftDirty == 0 && r.Categories&(pagemap.Swapped|pagemap.Exclusive) != 0:
		out.State = Clean
	}
	return out
}

func (t *soft) Reset(pid int) error {
	delete(t.armed, pid)
	return nil
}

func (t *soft) Forget(pid int) { delete(t.armed, pid) }

func (t *soft) Keep(pids []int) {
	for pid := range t.armed {
		if !slices.Contains(pids, pid) {
			delete(t.armed, pid)
		}
	}
}

func (t *soft) Close() error {
	clear(t.armed)
	return nil
}
