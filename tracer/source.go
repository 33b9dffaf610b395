package tracer

import (
	"context"
	"fmt"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
)

// Source returns the source "watch": the table of w. It shares the watch, which outlives it.
//
// Under a freeze it reads again what changes without a call (times, positions of files, pending state) and the parts
// that have changed; the mappings, the largest part, only if their write sequence is another than at the last reading.
// What it reads it also compares with the table.
func (w *Watcher) Source() *WatchSource { return &WatchSource{w: w} }

// WatchSource is a kstate.Source on top of a Watcher.
type WatchSource struct {
	w     *Watcher
	guard bool // Collect refuses threads in regions
}

var _ kstate.Source = (*WatchSource)(nil)

// Name implements kstate.Source.
func (s *WatchSource) Name() string { return "watch" }

// Tells implements kstate.Source.
func (s *WatchSource) Tells() kstate.Facts { return told() }

// Close implements kstate.Source. The watch goes on.
func (s *WatchSource) Close() error { return nil }

// Prepare reads, before the freeze, what Collect can then do without.
func (s *WatchSource) Prepare(ctx context.Context) error {
	return s.w.do(ctx, func() {
		s.w.sync()
		b := &builder{now: readClocks(s.w.iter.view), files: map[uint64]int{}}
		for _, g := range s.w.table.groups {
			s.w.build(b, g)
		}
	})
}

// Breakpoints implements kstate.Prober: the probes on dlopen and dlclose, and on what marks regions.
func (s *WatchSource) Breakpoints(ctx context.Context) ([]kstate.Breakpoint, error) {
	var out []kstate.Breakpoint
	err := s.w.do(ctx, func() { out = s.w.code.breakpoints() })
	return out, err
}

// Collect implements kstate.Source.
func (s *WatchSource) Collect(ctx context.Context, pids []int, g *ptrace.Group) (*kstate.Collected, error) {
	b := &builder{pids: pids, now: readClocks(s.w.iter.view), stopped: g != nil, files: map[uint64]int{}}
	var failed error
	err := s.w.do(ctx, func() { failed = s.w.collect(b, pids, s.guard) })
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	return &b.out, nil
}

func (w *Watcher) collect(b *builder, pids []int, guard bool) error {
	w.catchUp()
	if guard && b.stopped {
		if err := w.refuseHeld(b, pids); err != nil {
			return err
		}
	}
	if b.stopped {
		w.unseen()
	}
	var c comparison
	for _, pid := range pids {
		if err := w.collectOne(b, &c, pid); err != nil {
			return err
		}
	}
	b.sharing()
	if !b.stopped { // what it did between the table and the reading is no difference
		b.out.Events, b.out.Lost = w.stats.Events, w.probes.lost()
		return nil
	}
	w.stats.Checks++
	w.stats.Drift += uint64(len(c.out))
	w.differences = c.out
	b.out.Events, b.out.Lost, b.out.Drift = w.stats.Events, w.probes.lost(), uint64(len(c.out))
	return nil
}

// collectOne reads one thread group and compares it with the table where the table claims to know.
func (w *Watcher) collectOne(b *builder, c *comparison, pid int) error {
	raw, err := w.iter.threads(pid)
	if err != nil {
		return err
	}
	p, err := b.process(raw)
	if err != nil {
		return err
	}
	g := w.table.groups[pid]
	if p.Zombie {
		b.out.Processes = append(b.out.Processes, *p)
		return nil
	}
	if g == nil { // not of the tree
		g = &group{pid: pid, stale: partAll}
	}
	c.pid = pid
	if g.stale&partRest == 0 {
		c.rest(g, raw)
	}
	if err := w.collectMaps(b, c, g, raw, p); err != nil {
		return err
	}
	if err := w.iter.descriptors(raw); err != nil {
		return err
	}
	if g.stale&partFDs == 0 {
		c.fds(w.table, g, raw)
	}
	if err := b.fds(raw, p); err != nil {
		return err
	}
	w.addOpened(b, g, p)
	p.Libraries = slices.Clone(g.libs)
	b.out.Processes = append(b.out.Processes, *p)
	return nil
}

// collectMaps takes the mappings as they were last built, if no write sequence came since, or reads them.
func (w *Watcher) collectMaps(b *builder, c *comparison, g *group, raw *rawProcess, p *model.Process) error {
	m := w.table.mms[g.mm]
	if m != nil && !m.stale && m.built != nil && m.builtSeq == m.seq && m.builtPid == g.pid {
		p.VMAs = slices.Clone(m.built)
		b.out.Blockers = append(b.out.Blockers, m.builtBlockers...)
		return nil
	}
	if err := w.iter.mappings(raw); err != nil {
		return err
	}
	if m != nil && !m.stale {
		c.maps(w, g, raw)
	}
	return w.buildFrom(b, m, raw, p)
}

// buildFrom makes the mappings of a pass, and keeps them.
func (w *Watcher) buildFrom(b *builder, m *memory, raw *rawProcess, p *model.Process) error {
	before := len(b.out.Blockers)
	if err := b.vmas(raw, p); err != nil {
		return err
	}
	if seq, ok := passSeq(raw); ok && m != nil {
		m.built, m.builtSeq, m.builtPid = slices.Clone(p.VMAs), m.near(seq), raw.pid
		m.builtBlockers = append(fault.List(nil), b.out.Blockers[before:]...)
	}
	return nil
}

// build makes the mappings of a group ahead of a collection.
func (w *Watcher) build(b *builder, g *group) {
	m := w.table.mms[g.mm]
	if m == nil || m.built != nil && m.builtSeq == m.seq && m.builtPid == g.pid {
		return
	}
	raw, err := w.iter.threads(g.pid)
	if err != nil || raw.mm == nil || w.iter.mappings(raw) != nil {
		return // it is ending
	}
	// What fails here fails again in Collect, and is told there.
	_ = w.buildFrom(b, m, raw, &model.Process{Pid: g.pid})
}

// addOpened adds to the descriptions how they came to be.
func (w *Watcher) addOpened(b *builder, g *group, p *model.Process) {
	for _, fd := range p.FDs {
		f := &b.out.Files[fd.File-1]
		if f.Opened != nil {
			continue
		}
		if s, ok := g.fds[fd.Num]; ok {
			if o := w.table.files[s.file]; o != nil && o.given != "" {
				f.Opened = &model.Opened{Given: o.given, Resolved: o.resolved, Flags: o.how, Mode: o.create}
			}
		}
	}
}

// Differences returns what the last comparison found, for messages.
func (w *Watcher) Differences(ctx context.Context) ([]Difference, error) {
	var out []Difference
	err := w.do(ctx, func() { out = slices.Clone(w.differences) })
	if err != nil {
		return nil, fmt.Errorf("differences of the table: %w", err)
	}
	return out, nil
}
