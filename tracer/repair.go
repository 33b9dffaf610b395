package tracer

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/model"
)

// This file keeps the table true: what events cannot tell, or were lost, is read from the kernel by iterators.
//
// A pass over mappings knows the write sequence at which it was taken. One over descriptors or threads does not, so the
// order is: look how many records were lost, take all there are, then read. An event in the ring that is older than the
// pass would otherwise undo part of it, and the later event about the same slot that puts it right may be one of those
// lost. Events newer than the pass bring newer states.

// tidy is what there is to do now and then.
func (w *Watcher) tidy() {
	w.catchUp()
	now := time.Now()
	for _, m := range w.table.mms {
		if !m.gapSince.IsZero() && now.Sub(m.gapSince) > gapPatience {
			m.stale = true
		}
	}
	w.repair(false)
	if len(w.table.mapped) > w.prune {
		w.table.pruneMapped()
		w.prune = 2*len(w.table.mapped) + 1000
	}
	if w.code.lookDue() {
		w.unseen() // setting a breakpoint takes the lock
	}
}

// catchUp applies everything that has happened, and marks what lost records were about.
func (w *Watcher) catchUp() {
	lost := w.probes.lost()
	if lost == w.lostSeen {
		w.drain()
		return
	}
	w.tellLost(lost - w.lostSeen)
	w.lostSeen = lost
	w.findGroups()
	// Processes share descriptions, and with them the flags that fcntl(2) sets. The one that set them may have closed
	// its descriptor since, or ended, so that reading it again shows nothing; and how it came by the description may be
	// lost too.
	for _, g := range w.table.groups {
		g.stale |= partFDs
	}
	w.drain()
	w.dropEnded() // again: of some the birth was among what was drained, and the end is lost
}

// findGroups compares the thread groups with those the probes follow, and marks what was lost of each, but for
// descriptors.
func (w *Watcher) findGroups() {
	var pid int32
	var v bpf.WatchWatchedGroup
	for it := w.probes.objs.Groups.Iterate(); it.Next(&pid, &v); {
		g := w.table.group(int(pid))
		if g.mm != v.Mm {
			w.table.use(g, v.Mm)
			g.stale = partAll
		}
		if v.LostEvents == g.lost {
			continue
		}
		g.lost = v.LostEvents
		w.code.due[int(pid)] = true
		lost := bpf.WatchLostPart(v.Lost)
		if lost&^(bpf.WatchLostPartLOST_FDS|bpf.WatchLostPartLOST_MAPS) != 0 {
			g.stale |= partRest
		}
		if m := w.table.mms[g.mm]; m != nil &&
			lost&(bpf.WatchLostPartLOST_MAPS|bpf.WatchLostPartLOST_TASKS|bpf.WatchLostPartLOST_OTHER) != 0 {
			m.stale = true
		}
	}
	w.dropEnded()
}

// dropEnded forgets the thread groups that the probes do not follow any more.
func (w *Watcher) dropEnded() {
	var v bpf.WatchWatchedGroup
	for pid := range w.table.groups {
		if err := w.probes.objs.Groups.Lookup(int32(pid), &v); errors.Is(err, ebpf.ErrKeyNotExist) {
			w.table.drop(pid)
			w.code.ended(pid)
		}
	}
}

// unseen marks the mappings of which the lock had write sequences that no event told of. It is right only when no
// followed thread is in a system call.
func (w *Watcher) unseen() {
	for id, m := range w.table.mms {
		if now, err := w.probes.writeSeqOf(id); err != nil || m.near(now) != m.seq {
			m.stale = true
		}
	}
}

// repair reads again what is stale; unless all is set, not what was read just now.
func (w *Watcher) repair(all bool) {
	for _, g := range w.table.groups {
		m := w.table.mms[g.mm]
		due := m != nil && m.stale && (all || time.Since(m.tried) > repairEvery)
		if g.stale == 0 && !due {
			continue
		}
		raw, err := w.iter.threads(g.pid)
		if err != nil {
			continue // it is ending; its exit will be in the ring
		}
		if due {
			w.readMaps(m, raw)
		}
		if g.stale&partFDs != 0 {
			w.readFDs(g, raw)
		}
		if g.stale&partRest != 0 {
			w.readRest(g, raw)
		}
	}
}

// passSeq is the write sequence at which a pass over mappings was taken; false if it was not taken at one.
func passSeq(raw *rawProcess) (uint64, bool) {
	if len(raw.vmas) == 0 {
		return 0, false
	}
	seq := raw.vmas[0].Turn
	for i := range raw.vmas {
		if raw.vmas[i].Turn != seq {
			return 0, false
		}
	}
	return seq, true
}

// readMaps replaces the mappings by what an iterator says, if it can catch them standing still.
func (w *Watcher) readMaps(m *memory, raw *rawProcess) {
	m.tried = time.Now()
	for range 3 {
		raw.vmas = nil
		if w.iter.mappings(raw) != nil {
			return
		}
		seq, ok := passSeq(raw)
		if !ok {
			continue
		}
		w.stats.Repairs++
		m.segs, m.seq, m.stale = w.segmentsOf(raw), m.near(seq), false
		m.brk = raw.vmas[0].Brk
		m.gapSince = time.Time{}
		m.version++
		w.table.mapPending(m)
		return
	}
}

// segmentsOf makes segments of a pass, and notes the files.
func (w *Watcher) segmentsOf(raw *rawProcess) segments {
	segs := make(segments, 0, len(raw.vmas))
	for i := range raw.vmas {
		v := &raw.vmas[i]
		s := segment{start: v.Start, end: v.End, flags: v.Flags &^ vmSoftDirt, name: v.name}
		if f, ok := raw.mapped[v.File]; ok {
			s.file = fileKey{f.Inode.Dev, f.Inode.Ino}
			s.off = v.Pgoff * pageSize
		}
		segs = append(segs, s)
	}
	for _, f := range raw.mapped {
		w.table.mapped[fileKey{f.Inode.Dev, f.Inode.Ino}] = mappedFile{inode: f.Inode, path: f.path}
		if f.Inode.Mode&unix.S_IFMT == unix.S_IFREG {
			w.learnPath(filepath.Dir(f.path))
		}
	}
	return segs.normal()
}

// readFDs replaces the descriptors by what an iterator says.
func (w *Watcher) readFDs(g *group, raw *rawProcess) {
	raw.fds = nil
	if w.iter.descriptors(raw) != nil {
		return
	}
	w.stats.Repairs++
	seen := map[int]bool{}
	for i := range raw.fds {
		r := &raw.fds[i]
		seen[int(r.Fd)] = true
		f := w.table.setSlot(g, int(r.Fd), slot{file: r.File, cloexec: r.Cloexec != 0})
		f.flags, f.mode = cleanFlags(r.Flags), r.Mode
		if f.inode != r.Inode {
			f.inode = r.Inode
		}
		if f.resolved == "" {
			f.resolved = r.path
		}
	}
	for fd := range g.fds {
		if !seen[fd] {
			w.table.closeSlot(g, fd)
		}
	}
	g.stale &^= partFDs
	g.versions.FDs++
}

// readRest replaces handlers, limits, directories and the list of threads.
func (w *Watcher) readRest(g *group, raw *rawProcess) {
	if raw.actions == nil {
		return
	}
	w.stats.Repairs++
	g.actions = raw.actions.Action
	for i, l := range raw.process.Limits {
		g.limits[i] = model.Limit{Cur: l.Cur, Max: l.Max}
	}
	g.umask, g.ppid = raw.process.Umask, int(raw.process.Ppid)
	g.cwd = w.link(g.pid, "cwd")
	w.learnPath(g.cwd)
	old := g.threads
	g.threads = map[int]*thread{}
	for i := range raw.threads {
		r := &raw.threads[i]
		if r.ExitState != 0 {
			continue
		}
		t := g.thread(int(r.Tid))
		t.altStack = altStack(r)
		if before := old[int(r.Tid)]; before != nil {
			t.mask = before.mask
		}
		if int(r.Tid) == g.pid || g.comm == "" {
			g.comm = cstring(r.Comm[:])
		}
	}
	if m := w.table.mms[g.mm]; m != nil && len(g.threads) < len(old) {
		// what is in the ring of a thread that is gone could be taken for the doing of the one that is left
		m.stale = true
	}
	g.stale &^= partRest
	g.versions.Rest++
}
