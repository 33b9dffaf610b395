package tracer

import (
	"context"
	"fmt"
	"slices"

	"github.com/bpfckpt/bpfckpt/model"
)

// Difference is one field in which the table and the kernel differ.
type Difference struct {
	Pid   int    `json:"pid"`
	Field string `json:"field"` // "mapping 7f00-7f10", "fd 3 flags", "action 10" ...
	Table string `json:"table"`
	Real  string `json:"real"`
}

// String is the difference as one line.
func (d Difference) String() string {
	return fmt.Sprintf("pid %d %s: table %s, kernel %s", d.Pid, d.Field, d.Table, d.Real)
}

// Compare brings the table up to date and compares it with a pass of iterators, field by field. On processes that run
// and change their state meanwhile it can find differences that are none.
func (w *Watcher) Compare(ctx context.Context) ([]Difference, error) {
	var out []Difference
	var failed error
	err := w.do(ctx, func() {
		w.sync()
		out, failed = w.compare()
	})
	if err == nil {
		err = failed
	}
	return out, err
}

func (w *Watcher) compare() ([]Difference, error) {
	var c comparison
	for _, g := range w.table.groups {
		raw, err := w.iter.threads(g.pid)
		if err == nil && raw.living() == 0 {
			continue // it is ending
		}
		if err == nil {
			err = w.iter.mappings(raw)
		}
		if err == nil {
			err = w.iter.descriptors(raw)
		}
		if err != nil {
			return c.out, err
		}
		c.pid = g.pid
		c.maps(w, g, raw)
		c.fds(w.table, g, raw)
		c.rest(g, raw)
	}
	w.differences = c.out
	w.stats.Checks++
	w.stats.Drift += uint64(len(c.out))
	return c.out, nil
}

// comparison collects differences.
type comparison struct {
	pid int
	out []Difference
}

func (c *comparison) add(field string, table, real any) {
	c.out = append(c.out, Difference{Pid: c.pid, Field: field, Table: fmt.Sprint(table), Real: fmt.Sprint(real)})
}

func (s segment) String() string {
	return fmt.Sprintf("%x-%x flags %x offset %x file %x:%d %s", s.start, s.end, s.flags, s.off, s.file.dev, s.file.ino,
		s.name)
}

// maps compares mappings.
func (c *comparison) maps(w *Watcher, g *group, raw *rawProcess) {
	m := w.table.mms[g.mm]
	if m == nil {
		c.add("memory", "unknown", "there")
		return
	}
	have, want := m.segs.normal(), w.segmentsOf(raw)
	for i, j := 0, 0; i < len(have) || j < len(want); {
		switch {
		case i < len(have) && j < len(want) && have[i] == want[j]:
			i++
			j++
		case j == len(want) || i < len(have) && have[i].start < want[j].start:
			c.add(fmt.Sprintf("mapping %x-%x", have[i].start, have[i].end), have[i], "absent")
			i++
		case i == len(have) || want[j].start < have[i].start:
			c.add(fmt.Sprintf("mapping %x-%x", want[j].start, want[j].end), "absent", want[j])
			j++
		default:
			c.add(fmt.Sprintf("mapping %x-%x", want[j].start, want[j].end), have[i], want[j])
			i++
			j++
		}
	}
	if brk := raw.vmas[0].Brk; brk != m.brk {
		c.add("brk", m.brk, brk)
	}
}

// fds compares descriptors.
func (c *comparison) fds(tb *table, g *group, raw *rawProcess) {
	seen := map[int]bool{}
	for i := range raw.fds {
		r := &raw.fds[i]
		fd := int(r.Fd)
		seen[fd] = true
		s, ok := g.fds[fd]
		if !ok {
			c.add(fmt.Sprintf("fd %d", fd), "absent", r.path)
			continue
		}
		f := tb.files[s.file]
		if s.file != r.File {
			c.add(fmt.Sprintf("fd %d description", fd), f.resolved, r.path)
			continue
		}
		if s.cloexec != (r.Cloexec != 0) {
			c.add(fmt.Sprintf("fd %d close-on-exec", fd), s.cloexec, r.Cloexec != 0)
		}
		if f.flags != cleanFlags(r.Flags) {
			c.add(fmt.Sprintf("fd %d flags", fd), f.flags, cleanFlags(r.Flags))
		}
		if f.inode.Ino != r.Inode.Ino || f.inode.Dev != r.Inode.Dev || f.inode.Rdev != r.Inode.Rdev {
			c.add(fmt.Sprintf("fd %d inode", fd), f.inode, r.Inode)
		}
	}
	for fd := range g.fds {
		if !seen[fd] {
			c.add(fmt.Sprintf("fd %d", fd), tb.files[g.fds[fd].file].resolved, "absent")
		}
	}
}

// rest compares handlers, limits, directories and threads.
func (c *comparison) rest(g *group, raw *rawProcess) {
	for i, a := range raw.actions.Action {
		if g.actions[i] != a {
			c.add(fmt.Sprintf("action %d", i+1), g.actions[i], a)
		}
	}
	for i, l := range raw.process.Limits {
		if real := (model.Limit{Cur: l.Cur, Max: l.Max}); g.limits[i] != real {
			c.add("limit "+limitNames[i], g.limits[i], real)
		}
	}
	if g.umask != raw.process.Umask {
		c.add("umask", g.umask, raw.process.Umask)
	}
	var tids []int
	for i := range raw.threads {
		r := &raw.threads[i]
		if r.ExitState != 0 {
			continue
		}
		tids = append(tids, int(r.Tid))
		t := g.threads[int(r.Tid)]
		if t == nil {
			c.add(fmt.Sprintf("thread %d", r.Tid), "absent", "there")
		} else if real := altStack(r); t.altStack != real {
			c.add(fmt.Sprintf("thread %d alternate stack", r.Tid), t.altStack, real)
		}
	}
	for tid := range g.threads {
		if !slices.Contains(tids, tid) {
			c.add(fmt.Sprintf("thread %d", tid), "there", "absent")
		}
	}
}
