package snapshot

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/dirty"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/pagemap"
	"github.com/bpfckpt/bpfckpt/model"
)

// memoryCopy is the memory of a tree: it is copied while that stands still, and handed to the image when it runs on.
type memoryCopy struct {
	tree     *tree
	st       *model.State
	track    *tracking
	forked   *forked
	exclude  *excluder
	contents *contents
	code     *codeFiles
	writer   *image.Writer
	arena    *arena
	progress *progress
	pages    planner
}

// newMemoryCopy returns what copies the tree of a session, of which all but the memory is known.
func newMemoryCopy(s *session) *memoryCopy {
	return &memoryCopy{
		tree: s.tree, st: s.st, track: &s.track, forked: s.forked, exclude: &s.exclude, contents: &s.contents,
		code: &s.code, writer: s.writer, arena: s.arena, progress: &s.progress,
	}
}

// copy decides which pages to save and copies them, under the freeze.
func (c *memoryCopy) copy(ctx context.Context) error {
	number(c.st, c.track.spaces)
	defer c.forked.closeMaps()
	parent := func(pid int) int { return parentOf(c.st, pid) }
	if err := c.forked.findNewcomers(c.tree.pids, parent); err != nil {
		return err
	}
	for i := range c.st.Processes {
		if p := &c.st.Processes[i]; !p.Zombie {
			c.forked.spaces[p.Pid] = p.Space
			c.exclude.mark(p)
			if err := c.planProcess(p); err != nil {
				return gone(p.Pid, err)
			}
		}
	}
	if err := c.addObjects(); err != nil {
		return err
	}
	c.code.unlinked = c.contents.unlinked
	if err := c.forgetEnded(); err != nil {
		return err
	}
	jobs := c.pages.jobs
	for i := range jobs {
		jobs[i].buf = c.arena.take(jobs[i].size)
	}
	var deadline time.Time
	if c.tree.maxFreeze > 0 {
		deadline = c.tree.frozenAt.Add(c.tree.maxFreeze)
	}
	if err := copyJobs(ctx, jobs, deadline); err != nil {
		return gone(c.tree.pid, err)
	}
	return c.stream(ctx, deadline)
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

// number gives each content in the image its space. Processes that pre-copy has seen have theirs, by pid.
func number(st *model.State, known map[int]model.Space) {
	next := model.Space(len(known) + 1)
	take := func() model.Space { next++; return next - 1 }
	for i := range st.Processes {
		p := &st.Processes[i]
		if space, ok := known[p.Pid]; ok && !p.Zombie {
			p.Space = space
		} else if !p.Zombie {
			p.Space = take()
		}
	}
	for i := range st.Shmems {
		st.Shmems[i].Space = take()
	}
	for i := range st.Unlinked {
		st.Unlinked[i].Space = take()
	}
	for i := range st.Named {
		st.Named[i].Space = take()
	}
}

// planProcess decides which pages of a process are copied under the freeze, and which of those that are in the image
// are no longer true.
func (c *memoryCopy) planProcess(p *model.Process) error {
	t := c.track
	if t.tr == nil {
		return c.addProcess(p, t.parent[p.Pid].space)
	}
	covers := t.covers[p.Pid]
	_, early := t.spaces[p.Pid]
	from := &origin{space: p.Space, pid: p.Pid, name: pidName(p.Pid), parent: t.parent[p.Pid].space}
	files := from // of what the process changed in its file mappings, which is little, and not tracked
	if t.base != "" && covers {
		anon := *from
		anon.parent = 0 // what was written differs, most likely
		from = &anon
	}
	g := gaps{sink: func(start, end uint64) error {
		if !early {
			return nil // nothing was written for it
		}
		return c.writer.Discard(p.Space, start, (end-start)/model.PageSize)
	}}
	owed, lost := t.owed[p.Pid], c.forked.lost(p.Pid)
	var failed error
	cut := cutter{vmas: p.VMAs}
	state := dirty.Clean
	cut.sink = func(v *model.VMA, start, end uint64, guard bool) {
		switch {
		case guard:
			v.Guards = append(v.Guards, model.Range{Start: start, End: end})
			return
		case !holdsContent(v):
			return
		}
		if err := g.content(start, end); err != nil {
			failed = err
		}
		what := from
		if v.Kind == model.VMAFile {
			what = files
		}
		fresh := state == dirty.Written || !covers
		split(start, end, fresh, owed, lost, func(start, end uint64) {
			if err := c.addPages(what, v, start, end, covers && state == dirty.Written); err != nil {
				failed = err
			}
		})
		c.forked.noteStored(p.Pid, v, model.Range{Start: start, End: end}, !fresh)
	}
	err := t.tr.Dirty(p.Pid, walks(p.VMAs), func(r dirty.Run) error {
		if state = r.State; state == dirty.Written {
			t.written[p.Pid] = widen(t.written[p.Pid], r)
		}
		cut.cut(r.Start, r.End, r.State == dirty.Guard)
		return failed
	})
	if err != nil {
		return err
	}
	return g.close(t.tops[p.Pid])
}

// addProcess plans the private pages of a process and notes its guard regions in the VMAs. What files still have, and
// the zero page, a new mapping brings by itself.
func (c *memoryCopy) addProcess(p *model.Process, parent model.Space) error {
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
	cut := cutter{vmas: p.VMAs, sink: func(v *model.VMA, start, end uint64, guard bool) {
		switch {
		case guard:
			v.Guards = append(v.Guards, model.Range{Start: start, End: end})
		case holdsContent(v) && failed == nil:
			failed = c.addPages(from, v, start, end, false)
			c.forked.noteStored(p.Pid, v, model.Range{Start: start, End: end}, false)
		}
	}}
	for _, span := range walks(p.VMAs) {
		err := m.Walk(span.Start, span.End, pagemap.Content(span.Anon), func(r pagemap.Region) error {
			cut.cut(r.Start, r.End, r.Categories&pagemap.Guard != 0)
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
func (c *memoryCopy) addPages(from *origin, v *model.VMA, start, end uint64, written bool) error {
	f := c.forked
	own := written && v.Kind == model.VMAAnon && !f.again[from.pid]
	add := func(start, end uint64) {
		p := part{addr: start, size: int(end - start), forced: v.Prot&unix.PROT_READ == 0}
		if isCode(v) {
			p.code = v
		}
		if own {
			c.pages.add(from, p)
		} else {
			c.pages.addPrivate(from, p, f.shared[from.pid])
		}
	}
	if own || len(f.spans[from.pid]) == 0 || !mayBeShared(v) {
		add(start, end)
		return nil
	}
	return f.divide(from.pid, start, end, func(of int) []model.Range { return f.stored[of] }, func(k kinSpan) error {
		return c.writer.Same(from.space, k.Start, (k.End-k.Start)/model.PageSize, f.spaces[k.of])
	}, add)
}

// forgetEnded takes out of the image what was copied of processes that have ended since.
func (c *memoryCopy) forgetEnded() error {
	for pid, space := range c.track.spaces {
		if slices.Contains(c.tree.pids, pid) {
			continue
		}
		if err := c.writer.Discard(space, 0, c.track.tops[pid]/model.PageSize); err != nil {
			return err
		}
	}
	return nil
}

// addObjects plans the content of shared memory objects, of named memory, and of those unlinked files that the tree
// itself can change.
func (c *memoryCopy) addObjects() error {
	for i := range c.st.Shmems {
		o := &c.st.Shmems[i]
		if err := c.addObject(o.Space, fmt.Sprintf("shared memory %s", o.Name), &o.Size, i,
			c.contents.shmems); err != nil {
			return err
		}
	}
	for i := range c.st.Named {
		o := &c.st.Named[i]
		if err := c.addObject(o.Space, o.Path, &o.Size, i, c.contents.named); err != nil {
			return err
		}
	}
	for i := range c.st.Unlinked {
		if o := &c.st.Unlinked[i]; changing(c.st, i+1) {
			if err := c.addObject(o.Space, o.Path, &o.Size, i, c.contents.unlinked); err != nil {
				return err
			}
		}
	}
	return nil
}

// addObject plans one object, the i-th of files. Its size is read again: it is what counts together with the content.
func (c *memoryCopy) addObject(space model.Space, name string, size *int64, i int, files []*os.File) error {
	if i >= len(files) || files[i] == nil {
		return fault.New(fault.MappedRead, name, "no descriptor or mapping leads to it")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(files[i].Fd()), &st); err != nil {
		return fault.New(fault.MappedRead, name, "%w", err)
	}
	*size = st.Size
	if err := c.pages.addFile(&origin{
		space: space, file: files[i], name: name,
		parent: c.track.inodes[[2]uint64{uint64(st.Dev), st.Ino}],
	}, st.Size); err != nil {
		return fault.New(fault.MappedRead, name, "%w", err)
	}
	return nil
}

// stream copies and writes the jobs for which the arena had no room.
func (c *memoryCopy) stream(ctx context.Context, deadline time.Time) error {
	var buf []byte
	for i := range c.pages.jobs {
		j := &c.pages.jobs[i]
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
			return gone(c.tree.pid, err)
		}
		if err := j.write(c.writer, c.code, buf); err != nil {
			return err
		}
	}
	return nil
}

// encode hands everything that was copied to the image, then the unlinked files that nobody can change.
func (c *memoryCopy) encode(ctx context.Context) error {
	c.progress.expected = c.progress.done
	for i := range c.pages.jobs {
		j := &c.pages.jobs[i]
		if err := ctx.Err(); err != nil {
			return err
		}
		if j.buf != nil {
			if err := j.write(arenaSink{c.writer, c.arena}, c.code, j.buf); err != nil {
				return err
			}
			j.buf = nil
		}
		c.progress.report(j.size, c.pages.bytes)
	}
	return c.encodeUnlinked(ctx)
}

func (c *memoryCopy) encodeUnlinked(ctx context.Context) error {
	var quiet planner
	for i := range c.st.Unlinked {
		if g := &c.st.Unlinked[i]; !changing(c.st, i+1) {
			if i >= len(c.contents.unlinked) || c.contents.unlinked[i] == nil {
				return fault.New(fault.MappedRead, g.Path, "no descriptor or mapping leads to it")
			}
			if err := quiet.addFile(&origin{space: g.Space, file: c.contents.unlinked[i], name: g.Path},
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
		if err := quiet.jobs[i].write(c.writer, c.code, buf); err != nil {
			return err
		}
	}
	return nil
}

// leaveOut takes a content out of the image again. In a dry run nothing is copied, and c is nil.
func (c *memoryCopy) leaveOut(space model.Space, size int64) error {
	if c == nil {
		return nil
	}
	c.pages.jobs = slices.DeleteFunc(c.pages.jobs, func(j job) bool { return j.from.space == space })
	// what found no room in the arena is written
	return c.writer.Discard(space, 0, uint64(roundUp(int(size)))/model.PageSize)
}

// progress is how many bytes are on their way into the image, of how many.
type progress struct {
	tell           func(done, total int64) // Options.Progress
	done, expected int64
}

// report counts bytes that are on their way; more are known to follow beside those that were expected.
func (p *progress) report(n int, more int64) {
	if p.done += int64(n); p.tell != nil {
		p.tell(p.done, max(p.done, p.expected+more))
	}
}
