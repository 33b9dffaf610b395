package snapshot

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/dirty"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// Bounds of pre-copy.
const (
	precopyRounds  = 12
	precopyEnough  = 4 << 20 // bytes of a round after which the rest is copied under the freeze
	precopyShrink  = 0.8     // a round that leaves more than this share of the one before it does not converge
	throttleRounds = 12      // more rounds, while the tree is held back
	restSlack      = 4 << 20
	restArena      = 80 << 20 // room for what pre-copy leaves; more is written under the freeze
)

// precopy copies memory while the tree runs: what is in the image already need not be read under the freeze if it is
// still clean then. It goes on in rounds, each of what was written during the one before, until little is left or it no
// longer gets less.
type precopy struct {
	track    *tracking
	forked   *forked
	exclude  *excluder
	code     *codeFiles
	writer   *image.Writer
	throttle *throttle
	progress *progress
	opts     *Options
	res      *Result
	scratch  []byte // for copies that are written at once
}

// precopy runs the rounds of pre-copy, and gets room ready for what they leave.
func (s *session) precopy(ctx context.Context) error {
	t := &s.track
	if err := timed(&s.res.Phases.Attach, func() error { return t.attach(ctx, s.tree, s.live) }); err != nil {
		return err
	}
	// It may go on after the phase that this is part of.
	s.throttle = &throttle{ctx: context.WithoutCancel(ctx), slice: s.opts.MaxFreeze, waits: s.source.waits}
	s.pre = &precopy{
		track: t, forked: s.forked, exclude: &s.exclude, code: &s.code, writer: s.writer, throttle: s.throttle,
		progress: &s.progress, opts: &s.opts, res: s.res,
	}
	var rest []int // processes that are copied under the freeze
	err := timed(&s.res.Phases.Precopy, func() (err error) {
		rest, err = s.pre.rounds(ctx, s.live)
		return err
	})
	if err != nil {
		return err
	}
	return s.reserve(rest, t.rest+t.aside)
}

// rounds runs the rounds, and returns the processes that could not take part.
func (p *precopy) rounds(ctx context.Context, live []int) (rest []int, err error) {
	var take []int
	t := p.track
	for _, pid := range live {
		switch {
		case t.tr.Live(pid) && !direct(pid):
			take = append(take, pid)
			continue
		case t.base == "" || t.parent[pid].space == 0:
			rest = append(rest, pid)
		}
		if _, why := t.tr.Serves(pid); why != "" && t.tr.Name() != dirty.Compare {
			p.res.note("writes of pid %d are not tracked, all its memory is read: %s", pid, why)
		}
		if _, err := t.keep(p.writer, pid); err != nil { // what is clean since the base needs no round
			return nil, err
		}
	}
	t.take = take
	p.throttle.pids = take
	most, stuck := precopyRounds, 0
	for round := 1; len(take) > 0 && round <= most; round++ {
		before := t.rest
		if err := p.all(ctx, round == 1); err != nil {
			return nil, err
		}
		p.res.Rounds = round
		if t.rest <= precopyEnough {
			break
		}
		if stuck++; round == 1 || float64(t.rest) <= precopyShrink*float64(before) {
			stuck = 0
		}
		switch {
		case stuck == 0 && round < most:
		case p.opts.fits(t.rest + t.aside):
			return rest, nil
		case stuck < 2 && p.throttle.hard > 0 &&
			round < most: // what was written before it was held back counts in the round after
		case !p.throttle.harder():
			return rest, nil
		default:
			most, stuck = round+throttleRounds, 0
		}
	}
	return rest, nil
}

// all runs a round of every process that takes part.
func (p *precopy) all(ctx context.Context, first bool) error {
	t := p.track
	t.rest = 0
	p.forked.wrote = map[int][]model.Range{}
	for _, pid := range t.take {
		n, err := p.round(ctx, pid, first)
		t.rest += n
		if err = gone(pid, err); err != nil && !isGone(err) { // one that ended: the freeze will tell
			return err
		}
	}
	return nil
}

// last is one more round as the last thing before the freeze: what was written while everything else was made
// ready.
func (p *precopy) last(ctx context.Context) error {
	if p.res.Rounds == 0 {
		return nil
	}
	p.res.Rounds++
	return p.all(ctx, false)
}

// fits tells whether the rest can surely be copied in the time that a freeze may take. Pages that lie apart take three
// times as long as a copy in one piece; the other half of the time is for the state.
func (o *Options) fits(rest int64) bool {
	return o.MaxFreeze == 0 || 3*time.Duration(rest>>10)*freezePerByte <= o.MaxFreeze/2
}

// round copies what a process has written since the last one, in the first round all that is not in the base.
func (p *precopy) round(ctx context.Context, pid int, first bool) (copied int64, err error) {
	t := p.track
	maps, err := procfs.Pid(pid).Maps()
	if err != nil {
		return 0, err
	}
	if first {
		// Before any page is written. A process that executes another program from here on is noticed when the image is
		// finished.
		if t.aside, err = changedFiles(pid, maps, t.aside); err != nil {
			return 0, err
		}
		kept, err := t.keep(p.writer, pid)
		if err == nil && !kept {
			err = t.tr.Reset(pid) // what is clean since another image, or a snapshot that failed, is in none of ours
		}
		if err != nil {
			return 0, err
		}
	}
	c := &liveCopy{
		ctx: ctx, p: p, pid: pid, maps: maps, first: first,
		from: &origin{space: t.space(pid), pid: pid, name: pidName(pid)},
	}
	if t.base == "" {
		c.from.parent = t.parent[pid].space // what is equal takes no room at least
	}
	if first {
		if t.skip[pid], err = p.exclude.before(pid); err != nil {
			return 0, err
		}
	}
	c.skip = t.skip[pid]
	defer p.forked.closeMaps()
	if err := t.tr.Rearm(pid, nil, c.add); err != nil {
		return 0, err
	}
	if !first {
		c.next = 0
		for _, r := range p.forked.due(pid) {
			if err := c.copyRun(r.Start, r.End); err != nil {
				return 0, err
			}
		}
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	followed, _ := t.tr.Serves(pid)
	// If it was reading directly from a device meanwhile, or is no longer followed, nothing of it counts as copied.
	t.covers[pid] = followed && !direct(pid) && (first || t.covers[pid])
	return c.bytes, nil
}

// changedFiles adds to sum the bytes that a process has changed of private file mappings: those are not tracked, and
// copied under the freeze.
func changedFiles(pid int, maps []procfs.Map, sum int64) (int64, error) {
	var spans []dirty.Span
	for i := range maps {
		if m := &maps[i]; m.HasFile() && !m.Shared {
			spans = append(spans, dirty.Span{Start: m.Start, End: m.End})
		}
	}
	err := dirty.Everything(pid, spans, func(r dirty.Run) error {
		if r.State == dirty.Written {
			sum += int64(r.End - r.Start)
		}
		return nil
	})
	return sum, err
}

// liveCopy copies pages of a running process as they are armed.
type liveCopy struct {
	ctx   context.Context
	p     *precopy
	pid   int
	maps  []procfs.Map
	next  int
	from  *origin
	plan  planner
	bytes int64
	skip  []dirty.Span // most likely left out of the image
	first bool         // round
}

// add takes a run of pages that were just armed.
func (c *liveCopy) add(r dirty.Run) error {
	if !c.first {
		c.p.forked.noteWritten(c.pid, model.Range{Start: r.Start, End: r.End})
	}
	return c.copyRun(r.Start, r.End)
}

// copyRun copies pages, where they are mapped. It is called with ascending addresses.
func (c *liveCopy) copyRun(start, stop uint64) error {
	for c.next < len(c.maps) && c.maps[c.next].End <= start {
		c.next++
	}
	tops := c.p.track.tops
	tops[c.pid] = max(tops[c.pid], stop)
	at := start
	for i := c.next; i < len(c.maps) && c.maps[i].Start < stop; i++ {
		m := &c.maps[i]
		if m.Start > at {
			c.owe(at, m.Start) // mapped after we looked
			at = m.Start
		}
		end := min(stop, m.End)
		if m.Prot&unix.PROT_EXEC != 0 || c.skips(m) { // breakpoints of others come and go
			c.owe(at, end)
			at = end
			continue
		}
		if err := c.take(m, at, end); err != nil {
			return err
		}
		at = end
	}
	if at < stop {
		c.owe(at, stop)
	}
	for len(c.plan.jobs) > 1 || len(c.plan.jobs) == 1 && c.plan.jobs[0].size == jobBytes {
		if err := c.copyFirst(); err != nil {
			return err
		}
	}
	return nil
}

// take plans pages of a mapping, and leaves those to others that it shares with them since fork(2) and whose writes are
// tracked, too.
func (c *liveCopy) take(m *procfs.Map, start, end uint64) error {
	add := func(start, end uint64) {
		p := part{addr: start, size: int(end - start), forced: m.Prot&unix.PROT_READ == 0}
		c.plan.addPrivate(c.from, p, c.p.forked.shared[c.pid])
	}
	if !c.first || len(c.p.forked.spans[c.pid]) == 0 {
		add(start, end)
		return nil
	}
	tracked := func(of int) []model.Range {
		if c.p.track.covers[of] {
			return []model.Range{{Start: 0, End: ^uint64(0)}}
		}
		return nil
	}
	return c.p.forked.divide(c.pid, start, end, tracked, func(k kinSpan) error {
		c.p.forked.give(c.pid, k)
		return c.p.writer.Same(c.from.space, k.Start, (k.End-k.Start)/model.PageSize, c.p.track.space(k.of))
	}, add)
}

// skips reports whether a mapping is not to be copied before the freeze.
func (c *liveCopy) skips(m *procfs.Map) bool {
	return slices.ContainsFunc(c.skip, func(s dirty.Span) bool { return s.Start < m.End && m.Start < s.End })
}

// owe notes pages that are to be copied under the freeze, whatever the tracker says of them.
func (c *liveCopy) owe(start, end uint64) {
	owed := c.p.track.owed
	owed[c.pid] = append(owed[c.pid], dirty.Span{Start: start, End: end})
}

func (c *liveCopy) flush() error {
	for len(c.plan.jobs) > 0 {
		if err := c.copyFirst(); err != nil {
			return err
		}
	}
	return nil
}

// copyFirst copies and writes the first job.
func (c *liveCopy) copyFirst() error {
	j := &c.plan.jobs[0]
	if err := c.ctx.Err(); err != nil {
		return err
	}
	p := c.p
	if p.scratch == nil {
		p.scratch = make([]byte, jobBytes)
	}
	if _, err := j.copy(p.scratch, nil); err != nil {
		// The process has unmapped something since. The rest of the job is copied part by part.
		if err := c.copyParts(j); err != nil {
			return err
		}
	} else if err := j.write(p.writer, p.code, p.scratch); err != nil {
		return err
	}
	c.bytes += int64(j.size)
	p.progress.report(j.size, 0)
	c.plan.jobs = append(c.plan.jobs[:0], c.plan.jobs[1:]...)
	return nil
}

func (c *liveCopy) copyParts(j *job) error {
	th := ptrace.Thread{Pid: c.pid, Tid: c.pid}
	for _, p := range j.parts {
		if err := th.Peek(p.addr, c.p.scratch[:p.size]); err != nil {
			c.owe(p.addr, p.addr+uint64(p.size))
			continue
		}
		if err := c.p.writer.Write(j.from.space, p.addr, c.p.scratch[:p.size]); err != nil {
			return err
		}
	}
	return nil
}

// tooMuch gives up before the freeze if what is left cannot be copied within the time it may take: need bytes, after so many
// rounds of pre-copy.
func tooMuch(pid int, need int64, rounds int, limit time.Duration) error {
	guess := time.Duration(need>>10) * freezePerByte
	if limit == 0 || guess <= limit {
		return nil
	}
	if rounds > 0 {
		return fault.New(fault.MaxFreeze, pidName(pid),
			"it writes faster than it can be copied: after %d rounds of pre-copy %d KiB are left, which would take about %v",
			rounds, need>>10, guess.Round(10*time.Microsecond))
	}
	return fault.New(fault.MaxFreeze, pidName(pid), "copying its %d KiB would take about %v", need>>10,
		guess.Round(10*time.Microsecond))
}

// spanWalk is how far apart two runs are, bytes, that are better armed one by one: walking over as many pages takes as
// long as a call.
const spanWalk = 64 * model.PageSize

// widen adds a run to ascending spans.
func widen(spans []dirty.Span, r dirty.Run) []dirty.Span {
	if n := len(spans); n > 0 && r.Start-spans[n-1].End <= spanWalk {
		spans[n-1].End = r.End
		return spans
	}
	return append(spans, dirty.Span{Start: r.Start, End: r.End})
}

// split calls sink with the parts of [start, end) that are to be copied: all, or those that are owed, or that another
// process was to have and has not; these are ascending and disjoint.
func split(start, end uint64, all bool, owed []dirty.Span, lost []model.Range, sink func(start, end uint64)) {
	if all {
		sink(start, end)
		return
	}
	for _, o := range owed {
		if a, b := max(start, o.Start), min(end, o.End); a < b {
			sink(a, b)
		}
	}
	for _, r := range clip(lost, model.Range{Start: start, End: end}) {
		sink(r.Start, r.End)
	}
}

// gaps calls sink with the addresses between runs of content.
type gaps struct {
	pos  uint64
	sink func(start, end uint64) error
}

func (g *gaps) content(start, end uint64) error {
	pos := g.pos
	g.pos = end
	if start > pos {
		return g.sink(pos, start)
	}
	return nil
}

func (g *gaps) close(top uint64) error {
	if top <= g.pos {
		return nil
	}
	return g.sink(g.pos, top)
}
