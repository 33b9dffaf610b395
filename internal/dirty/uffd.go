package dirty

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/pagemap"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
)

// uffd follows writes by asynchronous write protection. A page is Clean if, now, its mapping is registered with our
// userfaultfd and its page table entry carries the protection; everything that makes either untrue counts as a write.
// What the kernel does (fs/userfaultfd.c, mm/mremap.c, mm/memory.c):
//
//   - A new mapping is not registered, whatever was at its place before; it does not become one with a registered neighbour.
//   - A mapping that mremap(2) moves is not registered any more; one that grows in place has new pages without entries.
//   - A page that vanishes takes its entry with it, and the next one at its place starts unprotected.
//   - fork(2) gives the child unregistered mappings; the parent keeps its protection.
//   - execve(2) makes a new address space without any registered mapping.
//   - A protected huge page is split at the first write.
//
// Only anonymous memory is followed (followable).
type uffd struct {
	base
	procs map[int]*followed
}

// followed is a process with a userfaultfd of ours.
type followed struct {
	pid   int
	start uint64 // start time, to tell it from a later process with the pid
	fd    int    // the userfaultfd, -1 if it cannot be followed
	why   string // why not
	armed bool   // some mapping was registered

	still *survey // what Dirty saw of the process; of use to an Arm that follows at once
}

// survey is what can be followed of a process.
type survey struct {
	maps  []procfs.Map // followable, ascending
	fresh []procfs.Map // those of maps that are not registered, or not as a whole
	spans []Span       // where maps lie, without mappings of other kinds
}

// spanGap is the width of a gap that is worth a walk of its own to leave it out.
const spanGap = 1 << 30

// look takes a survey.
func (f *followed) look(m *pagemap.Map) (*survey, error) {
	all, err := procfs.Pid(f.pid).Maps()
	if err != nil {
		return nil, err
	}
	s := &survey{}
	joined := false // the last mapping is one of maps, and not far away
	for i := range all {
		v := &all[i]
		if !followable(v) {
			joined = false
			continue
		}
		if n := len(s.spans); joined && v.Start-s.spans[n-1].End < spanGap {
			s.spans[n-1].End = v.End
		} else {
			s.spans = append(s.spans, Span{Start: v.Start, End: v.End, Anon: true})
		}
		s.maps, joined = append(s.maps, *v), true
	}
	if err := s.findFresh(m); err != nil {
		return nil, trackFault(f.pid, err)
	}
	return s, nil
}

// findFresh asks the kernel which mappings are registered: it skips those that are as a whole, and reports of the
// others every address.
func (s *survey) findFresh(m *pagemap.Map) error {
	q := pagemap.Query{Invert: pagemap.WPAllowed, All: pagemap.WPAllowed}
	i := 0
	for k := 0; k < len(s.spans); {
		start, end := s.spans[k].Start, s.spans[k].End
		// to look at other mappings too costs less than another call
		for k++; k < len(s.spans) && s.spans[k].Start-end < spanGap; k++ {
			end = s.spans[k].End
		}
		err := m.Walk(start, end, q, func(r pagemap.Region) error {
			for i < len(s.maps) && s.maps[i].End <= r.Start {
				i++
			}
			for ; i < len(s.maps) && s.maps[i].Start < r.End; i++ {
				s.fresh = append(s.fresh, s.maps[i])
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func newUffd() *uffd { return &uffd{procs: map[int]*followed{}} }

func (t *uffd) Name() string { return UffdWP }

// lookup returns what is known of a process, nil for one that is not that of Attach.
func (t *uffd) lookup(pid int) *followed {
	f := t.procs[pid]
	if f == nil {
		return nil
	}
	if st, err := procfs.Pid(pid).Stat(); err != nil || st.StartTime != f.start {
		t.Forget(pid)
		return nil
	}
	return f
}

func (t *uffd) Serves(pid int) (bool, string) {
	f := t.lookup(pid)
	if f == nil {
		return false, ""
	}
	return f.fd >= 0, f.why
}

func (t *uffd) Live(pid int) bool {
	followed, _ := t.Serves(pid)
	return followed
}

func (t *uffd) Attach(g *ptrace.Group, pid int) error {
	if t.lookup(pid) != nil {
		return nil
	}
	st, err := procfs.Pid(pid).Stat()
	if err != nil {
		return err
	}
	f := &followed{pid: pid, start: st.StartTime, fd: -1}
	if f.fd, err = makeInside(g, pid); err != nil {
		if errors.Is(err, &fault.Error{Code: fault.TargetGone}) {
			return err
		}
		f.fd, f.why = -1, err.Error()
	}
	t.procs[pid] = f
	return nil
}

func (t *uffd) Forget(pid int) {
	if f := t.procs[pid]; f != nil {
		f.close()
		delete(t.procs, pid)
	}
}

// close gives the userfaultfd back: the kernel lifts all protection and unregisters every mapping.
func (f *followed) close() {
	if f.fd >= 0 {
		_ = unix.Close(f.fd) // the last descriptor
		f.fd = -1
	}
}

// giveUp ends the following of a process for good.
func (f *followed) giveUp(why string) {
	f.close()
	f.why = why
}

func (t *uffd) Keep(pids []int) {
	for pid := range t.procs {
		if !slices.Contains(pids, pid) {
			t.Forget(pid)
		}
	}
}

func (t *uffd) Close() error {
	for pid := range t.procs {
		t.Forget(pid)
	}
	return nil
}

func (t *uffd) Arm(pid int, written []Span) error {
	return t.Rearm(pid, written, func(Run) error { return nil })
}

func (t *uffd) Rearm(pid int, spans []Span, sink func(Run) error) error {
	f, m, err := t.open(pid)
	if f == nil || err != nil {
		return err
	}
	defer m.Close()
	if err = t.rearm(f, m, spans, sink); errors.Is(err, unix.ESRCH) && t.executed(f) {
		t.Forget(pid)
		return nil
	}
	return err
}

// open opens the page map of a process that is followed; nil, nil for one that is not. The pid is looked up once it is
// open: as long as the process is that of Attach, it was then too, and no other had its pid.
func (t *uffd) open(pid int) (*followed, *pagemap.Map, error) {
	if f := t.procs[pid]; f == nil || f.fd < 0 {
		return nil, nil, nil
	}
	m, err := pagemap.Open(pid)
	f := t.lookup(pid)
	switch {
	case err != nil && f != nil:
		return nil, nil, trackFault(pid, err)
	case f == nil && err == nil:
		_ = m.Close() // it was only opened
	}
	if f == nil {
		return nil, nil, nil
	}
	return f, m, nil
}

// executed tells whether a process whose address space is gone runs on, with that of another program.
func (t *uffd) executed(f *followed) bool {
	st, err := procfs.Pid(f.pid).Stat()
	return err == nil && st.StartTime == f.start && st.State != 'Z' && st.State != 'X'
}

func (t *uffd) rearm(f *followed, m *pagemap.Map, spans []Span, sink func(Run) error) (err error) {
	seen := f.still
	f.still = nil
	if seen == nil || spans == nil { // or it has run since
		if seen, err = f.look(m); err != nil {
			return err
		}
	}
	if !t.registerAll(f, seen) {
		return trackFault(f.pid, m.Alive())
	}
	if spans == nil {
		spans = seen.spans
	}
	j := joiner{sink: sink}
	for _, s := range spans {
		q := pagemap.Content(s.Anon)
		q.All |= pagemap.WPAllowed | pagemap.Written
		q.Return = 0
		add := func(r pagemap.Region) error { return j.add(Run{r.Start, r.End, Written}) }
		if err := m.Protect(s.Start, s.End, q, add); err != nil {
			return trackFault(f.pid, err)
		}
	}
	if err := j.flush(); err != nil {
		return err
	}
	return trackFault(f.pid, m.Alive())
}

// Reset unregisters every mapping, which takes the protection away. What the process maps meanwhile is not registered
// anyway.
func (t *uffd) Reset(pid int) error {
	f := t.lookup(pid)
	if f == nil || f.fd < 0 || !f.armed {
		return nil
	}
	maps, err := procfs.Pid(pid).Maps()
	if err != nil {
		return err
	}
	f.armed = false
	for i := range maps {
		switch err := unregister(f.fd, maps[i].Start, maps[i].End); {
		case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ESRCH):
			t.Forget(pid) // its address space is gone
			return nil
		case err != nil && !errors.Is(err,
			unix.EINVAL): // EINVAL: of a kind that cannot be registered, or unmapped meanwhile
			return trackFault(pid, err)
		}
	}
	return nil
}

// trackFault makes a fault of what the kernel said; one of whoever took the pages is passed on.
func trackFault(pid int, err error) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	if errors.As(err, &f) || errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, unix.ESRCH) { // its address space is gone
		return fault.New(fault.TargetGone, fmt.Sprintf("pid %d", pid), "it ended: %w", err)
	}
	return fault.New(fault.TrackFailed, fmt.Sprintf("pid %d", pid), "%w", err)
}

// registerAll registers every mapping that is not registered yet, with no page protected. It reports false if the
// process is no longer followed.
func (t *uffd) registerAll(f *followed, s *survey) bool {
	switch {
	case f.armed && len(s.fresh) == len(s.maps):
		// Nothing of what was registered is left: another program runs, or the descriptor still belongs to the address
		// space of the old one, which may live on elsewhere. It must not be touched.
		t.Forget(f.pid)
		return false
	case !f.armed && len(s.fresh) < len(s.maps):
		// We have registered nothing. Whoever has follows writes as we do, and what we protect would look unwritten to
		// him.
		f.giveUp("some of its memory is registered with another userfaultfd")
		return false
	}
	for i := range s.fresh {
		switch err := f.register(&s.fresh[i]); {
		case errors.Is(err, unix.EBUSY):
			f.giveUp(fmt.Sprintf("mapping %s is registered with another userfaultfd", s.fresh[i].Key()))
			return false
		case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ESRCH):
			t.Forget(f.pid) // its address space is gone
			return false
		}
	}
	return true
}

// followable reports whether a mapping is anonymous memory of the process's own. Pages of shared mappings are those of
// an object. A page that vanishes from a private file mapping leaves its protection behind as a marker, and
// MADV_GUARD_INSTALL of such a page never ends: it waits for the marker to go (Linux 6.15 to 6.18, mm/madvise.c,
// madvise_guard_install). What a process changes of files is little, and counts as written.
func followable(v *procfs.Map) bool {
	switch {
	case v.Shared, v.HasFile(), strings.HasPrefix(v.Name, "[v"), v.Name == "[uprobes]",
		strings.HasPrefix(v.Name, "/anon_hugepage"):
		return false
	}
	return true
}

// register registers one mapping. Up to Linux 6.12 a mapping that was registered once, and was moved, has entries that
// still look protected while writes to them are not seen; so the protection of all entries is taken away first.
func (f *followed) register(v *procfs.Map) error {
	if err := register(f.fd, v.Start, v.End); err != nil {
		return err // EINVAL, EPERM: of a kind that cannot be followed, its pages stay Written
	}
	f.armed = true
	if err := unprotect(f.fd, v.Start, v.End); err != nil {
		// The process runs and has unmapped a part of it. Next time.
		_ = unregister(f.fd, v.Start, v.End)
	}
	return nil
}

func (t *uffd) Dirty(pid int, spans []Span, sink func(Run) error) error {
	f, m, err := t.open(pid)
	if err != nil {
		return err
	}
	if f == nil {
		return Everything(pid, spans, sink)
	}
	defer m.Close()
	if !f.armed {
		return Everything(pid, spans, sink)
	}
	if f.still, err = f.look(m); err != nil {
		return err
	}
	if !f.verify(f.still) {
		return Everything(pid, spans, sink)
	}
	j := joiner{sink: sink}
	for _, s := range spans {
		q := pagemap.Content(s.Anon)
		q.Return |= pagemap.WPAllowed | pagemap.Written
		if err := m.Walk(s.Start, s.End, q, func(r pagemap.Region) error { return j.add(uffdRun(r)) }); err != nil {
			return trackFault(pid, err)
		}
	}
	return j.flush()
}

// uffdRun classifies pages with content.
func uffdRun(r pagemap.Region) Run {
	out := Run{r.Start, r.End, Written}
	switch {
	case r.Categories&pagemap.Guard != 0:
		out.State = Guard
	case r.Categories&(pagemap.WPAllowed|pagemap.Written) == pagemap.WPAllowed:
		out.State = Clean
	}
	return out
}

// verify makes sure that what is registered is registered with our descriptor, not with one of the process's own.
// Registering once more does nothing then.
func (f *followed) verify(s *survey) bool {
	fresh := s.fresh
	if len(fresh) == len(s.maps) {
		return true // another program
	}
	for i := range s.maps {
		v := &s.maps[i]
		if len(fresh) > 0 && fresh[0].Start == v.Start {
			fresh = fresh[1:]
			continue
		}
		if err := register(f.fd, v.Start, v.End); err != nil {
			f.giveUp(fmt.Sprintf("mapping %s is registered with another userfaultfd (%v)", v.Key(), err))
			return false
		}
	}
	return true
}

// makeInside makes a userfaultfd inside a stopped process and returns our descriptor of it; the process keeps none.
func makeInside(g *ptrace.Group, pid int) (int, error) {
	in, err := g.Injector(pid, nil)
	if err != nil {
		return -1, err
	}
	fd := -1
	for _, th := range g.Of(pid) {
		if fd, err = takeFrom(in, th); err == nil || !errors.Is(err, &fault.Error{Code: fault.InjectRoom}) &&
			!errors.Is(err, &fault.Error{Code: fault.InjectState}) {
			break // another thread would do no better
		}
	}
	if err != nil {
		return -1, err
	}
	if err := handshake(fd); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("UFFDIO_API: %w", err)
	}
	return fd, nil
}

// takeFrom makes the userfaultfd with one thread, takes it and closes the thread's descriptor. The thread closes it by
// itself if we die: that it will be the lowest free number is known beforehand, since nobody else opens files while the
// process stands still.
func takeFrom(in *ptrace.Injector, th *ptrace.Thread) (fd int, err error) {
	lowest, err := lowestFree(th.Pid)
	if err != nil {
		return -1, err
	}
	fd = -1
	do := ptrace.Syscall{Nr: unix.SYS_USERFAULTFD, Args: [6]uint64{unix.O_CLOEXEC | unix.O_NONBLOCK | uffdUserModeOnly}}
	undo := ptrace.Syscall{Nr: unix.SYS_CLOSE, Args: [6]uint64{lowest}}
	made := false
	err = in.Hold(th, do, &undo, func(result int64) error {
		do.Ret = result
		if err := do.Err(); err != nil {
			undo.Args[0] = ^uint64(0)
			return fmt.Errorf("userfaultfd: %w", err)
		}
		made = true
		undo.Args[0] = uint64(result)
		var err error
		fd, err = ptrace.TakeFD(th.Pid, int(result))
		return err
	})
	if err == nil && made {
		if e := undo.Err(); e != nil {
			err = fmt.Errorf("close the userfaultfd: %w", e)
		}
	}
	if err != nil && fd >= 0 {
		_ = unix.Close(fd)
		fd = -1
	}
	return fd, err
}

// lowestFree is the number that the next descriptor of a process will have (open(2)).
func lowestFree(pid int) (uint64, error) {
	fds, err := procfs.Pid(pid).FDs()
	if err != nil {
		return 0, err
	}
	slices.Sort(fds)
	next := 0
	for _, fd := range fds {
		if fd == next {
			next++
		}
	}
	return uint64(next), nil
}
