package snapshot

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/pagemap"
	"github.com/bpfckpt/bpfckpt/model"
)

// memory decides which pages to save and copies them, under the freeze.
func (s *session) memory(ctx context.Context) error {
	s.number()
	defer s.forked.closeMaps()
	if err := s.forked.findNewcomers(s.tree.pids, func(pid int) int { return parentOf(s.st, pid) }); err != nil {
		return err
	}
	for i := range s.st.Processes {
		if p := &s.st.Processes[i]; !p.Zombie {
			s.forked.spaces[p.Pid] = p.Space
			s.exclude.mark(p)
			if err := s.planProcess(p); err != nil {
				return gone(p.Pid, err)
			}
		}
	}
	if err := s.addObjects(); err != nil {
		return err
	}
	s.code.ghosts = s.contents.ghosts
	if err := s.forgetEnded(); err != nil {
		return err
	}
	jobs := s.pages.jobs
	for i := range jobs {
		jobs[i].buf = s.arena.take(jobs[i].size)
	}
	var deadline time.Time
	if s.opts.MaxFreeze > 0 {
		deadline = s.tree.frozenAt.Add(s.opts.MaxFreeze)
	}
	if err := copyJobs(ctx, jobs, deadline); err != nil {
		return gone(s.tree.pid, err)
	}
	if err := s.stream(ctx, deadline); err != nil {
		return err
	}
	if s.opts.Kill {
		return nil
	}
	return s.track.rearm(s.tree)
}

// parentOf is the pid of the parent of a process of the tree, 0 if it is no such process.
func parentOf(st *model.State, pid int) int {
	for i := range st.Processes {
		if st.Processes[i].Pid == pid {
			return st.Processes[i].PPid
		}
	}
	return 0
}

// number gives each content in the image its space. Processes that pre-copy has seen have theirs.
func (s *session) number() {
	next := model.Space(len(s.track.spaces) + 1)
	take := func() model.Space { next++; return next - 1 }
	for i := range s.st.Processes {
		p := &s.st.Processes[i]
		if space, ok := s.track.spaces[p.Pid]; ok && !p.Zombie {
			p.Space = space
		} else if !p.Zombie {
			p.Space = take()
		}
	}
	for i := range s.st.Shmems {
		s.st.Shmems[i].Space = take()
	}
	for i := range s.st.Ghosts {
		s.st.Ghosts[i].Space = take()
	}
	for i := range s.st.Named {
		s.st.Named[i].Space = take()
	}
}

// addProcess plans the private pages of a process and notes its guard regions in the VMAs. What files still have, and
// the zero page, a new mapping brings by itself.
func (s *session) addProcess(p *model.Process, parent model.Space) error {
	if len(p.VMAs) == 0 {
		return nil
	}
	m, err := pagemap.Open(p.Pid)
	if err != nil {
		return memoryFault(p.Pid, err)
	}
	defer m.Close()
	from := &origin{space: p.Space, pid: p.Pid, name: pidName(p.Pid), parent: parent}
	var failed error
	c := cutter{vmas: p.VMAs, sink: func(v *model.VMA, start, end uint64, guard bool) {
		switch {
		case guard:
			v.Guards = append(v.Guards, model.Range{Start: start, End: end})
		case holdsContent(v) && failed == nil:
			failed = s.addPages(from, v, start, end, false)
			s.forked.noteStored(p.Pid, v, model.Range{Start: start, End: end}, false)
		}
	}}
	for _, span := range walks(p.VMAs) {
		err := m.Walk(span.Start, span.End, pagemap.Content(span.Anon), func(r pagemap.Region) error {
			c.cut(r.Start, r.End, r.Categories&pagemap.Guard != 0)
			return failed
		})
		if err != nil {
			return memoryFault(p.Pid, err)
		}
	}
	return nil
}

// addPages plans pages of a mapping, and leaves those to others that it shares with them since fork(2). Pages that the
// process has written since pre-copy armed them are its own, unless it has forked again.
func (s *session) addPages(from *origin, v *model.VMA, start, end uint64, written bool) error {
	f := s.forked
	own := written && v.Kind == model.VMAAnon && !f.again[from.pid]
	add := func(start, end uint64) {
		p := part{addr: start, size: int(end - start), forced: v.Prot&unix.PROT_READ == 0}
		if isCode(v) {
			p.code = v
		}
		if own {
			s.pages.add(from, p)
		} else {
			s.pages.addPrivate(from, p, f.shared[from.pid])
		}
	}
	if own || len(f.spans[from.pid]) == 0 || !mayBeShared(v) {
		add(start, end)
		return nil
	}
	return f.divide(from.pid, start, end, func(of int) []model.Range { return f.stored[of] }, func(k kinSpan) error {
		return s.writer.Same(from.space, k.Start, (k.End-k.Start)/model.PageSize, f.spaces[k.of])
	}, add)
}

// forgetEnded takes out of the image what was copied of processes that have ended since.
func (s *session) forgetEnded() error {
	for pid, space := range s.track.spaces {
		if slices.Contains(s.tree.pids, pid) {
			continue
		}
		if err := s.writer.Discard(space, 0, s.track.tops[pid]/model.PageSize); err != nil {
			return err
		}
	}
	return nil
}

// addObjects plans the content of shared memory objects, of named memory, and of those ghosts that the tree itself can
// change.
func (s *session) addObjects() error {
	for i := range s.st.Shmems {
		o := &s.st.Shmems[i]
		if err := s.addObject(o.Space, fmt.Sprintf("shared memory %s", o.Name), &o.Size, i,
			s.contents.shmems); err != nil {
			return err
		}
	}
	for i := range s.st.Named {
		o := &s.st.Named[i]
		if err := s.addObject(o.Space, o.Path, &o.Size, i, s.contents.named); err != nil {
			return err
		}
	}
	for i := range s.st.Ghosts {
		if o := &s.st.Ghosts[i]; changing(s.st, i+1) {
			if err := s.addObject(o.Space, o.Path, &o.Size, i, s.contents.ghosts); err != nil {
				return err
			}
		}
	}
	return nil
}

// addObject plans one object, the i-th of files. Its size is read again: it is what counts together with the content.
func (s *session) addObject(space model.Space, name string, size *int64, i int, files []*os.File) error {
	if i >= len(files) || files[i] == nil {
		return fault.New(fault.MappedRead, name, "no descriptor or mapping leads to it")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(files[i].Fd()), &st); err != nil {
		return fault.New(fault.MappedRead, name, "%w", err)
	}
	*size = st.Size
	if err := s.pages.addFile(&origin{
		space: space, file: files[i], name: name,
		parent: s.track.inodes[[2]uint64{uint64(st.Dev), st.Ino}],
	}, st.Size); err != nil {
		return fault.New(fault.MappedRead, name, "%w", err)
	}
	return nil
}

// stream copies and writes the jobs for which the arena had no room.
func (s *session) stream(ctx context.Context, deadline time.Time) error {
	var buf []byte
	for i := range s.pages.jobs {
		j := &s.pages.jobs[i]
		if j.buf != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !deadline.IsZero() && time.Now().After(deadline) {
			return fault.New(fault.MaxFreeze, "",
				"the memory does not fit into ours and has to be written during the freeze")
		}
		if buf == nil {
			buf = make([]byte, jobBytes)
		}
		if _, err := j.copy(buf, nil); err != nil {
			return gone(s.tree.pid, err)
		}
		if err := j.write(s.writer, &s.code, buf); err != nil {
			return err
		}
	}
	return nil
}

// encode hands everything that was copied to the image, then the ghosts that nobody can change.
func (s *session) encode(ctx context.Context) error {
	s.expected = s.done
	for i := range s.pages.jobs {
		j := &s.pages.jobs[i]
		if err := ctx.Err(); err != nil {
			return err
		}
		if j.buf != nil {
			if err := j.write(arenaSink{s.writer, s.arena}, &s.code, j.buf); err != nil {
				return err
			}
			j.buf = nil
		}
		s.report(j.size)
	}
	return s.encodeGhosts(ctx)
}

func (s *session) encodeGhosts(ctx context.Context) error {
	var quiet planner
	for i := range s.st.Ghosts {
		if g := &s.st.Ghosts[i]; !changing(s.st, i+1) {
			if i >= len(s.contents.ghosts) || s.contents.ghosts[i] == nil {
				return fault.New(fault.MappedRead, g.Path, "no descriptor or mapping leads to it")
			}
			if err := quiet.addFile(&origin{space: g.Space, file: s.contents.ghosts[i], name: g.Path},
				g.Size); err != nil {
				return fault.New(fault.MappedRead, g.Path, "%w", err)
			}
		}
	}
	if len(quiet.jobs) == 0 {
		return nil
	}
	buf := make([]byte, jobBytes)
	for i := range quiet.jobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := quiet.jobs[i].copy(buf, nil); err != nil {
			return err
		}
		if err := quiet.jobs[i].write(s.writer, &s.code, buf); err != nil {
			return err
		}
	}
	return nil
}
