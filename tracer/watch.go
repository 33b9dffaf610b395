package tracer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/view"
)

// WatchOptions say how to watch. The zero value is a good one.
type WatchOptions struct {
	RingBytes int // size of the ring, a power of two from 4 KiB to 256 MiB, bytes; 0: 4 MiB
	// no probes on dlopen and dlclose: they patch the code of the library in every process that maps it
	NoDL bool
	// the process is stopped before its first instruction: it is in no region of include/bpfckpt.h
	AtStart bool
	OnEvent func(*Event) // called for every event, in order; must not block, nor keep the event
	partly  bool         // for tests: attach to functions also where not all can be had
	seqs    seqSource    // for tests: how the order of changes of mappings is found out
}

// seqSource is where the numbers of the write sequences of the lock of an mm come from (bpf/turn.h calls them turns).
type seqSource int

const (
	// from the kernel's count, and the probe of its lock once threads share one that they change; or as the last
	bestSeq   seqSource = iota
	probedSeq           // the probe is attached from the beginning
	ownSeq              // and counts: as it is where the kernel does not
)

const (
	defaultRing = 4 << 20
	minRing     = 4 << 10
	maxRing     = 256 << 20              // the verifier allows no offset over 512 MiB
	idleEvery   = 20 * time.Millisecond  // how often the ring is looked at when nothing wakes us
	tidyEvery   = 100 * time.Millisecond // how often what was lost is looked for while the ring never runs empty
	batchBytes  = 64 << 10               // how much of the ring is taken before others get at the table
	repairEvery = 20 * time.Millisecond  // least time between two readings of the same mappings
	gapPatience = 50 * time.Millisecond  // how long a write sequence may be missing before the mappings are read again

	kernelSeqBits = 31 // of the number of a write sequence that the kernel has counted
)

// Watcher follows a process tree. Its methods may be called from any goroutine, but not from OnEvent.
type Watcher struct {
	root   int
	opts   WatchOptions
	probes *probes
	using  chan struct{} // full while somebody uses the following: whoever has put something in
	ring   *ring         // its wait is for the goroutine run alone, and needs no right of use
	iter   *passes
	table  *table
	code   *codeProbes
	dirs   map[dirKey]string // where directories are
	prune  int               // how many mapped files the table may know before it forgets

	done  chan struct{} // closed when the tree has ended or the watch is over
	quit  chan struct{} // closed by Close
	close sync.Once

	released chan struct{} // a thread has left its last region
	waiters  int           // who wait for that

	took        int64 // when records were last taken, CLOCK_MONOTONIC ns
	stats       Stats
	final       Stats // as the watch ended
	lostSeen    uint64
	differences []Difference    // of the last comparison
	status      unix.WaitStatus // of the root
	rooted      bool            // status is set
	err         error           // why the watch ended, if not because the tree did
}

// Stats is what a watch has done so far.
type Stats struct {
	Events   uint64 `json:"events"`  // records taken from the ring
	Lost     uint64 `json:"lost"`    // records that did not fit into it
	Repairs  uint64 `json:"repairs"` // parts of a process's state that were read again
	Drift    uint64 `json:"drift"`   // fields found to differ from the kernel's, in all comparisons
	Checks   uint64 `json:"checks"`  // comparisons
	Groups   int    `json:"processes"`
	Threads  int    `json:"threads"`
	Maps     int    `json:"maps"`
	FDs      int    `json:"fds"`
	Handlers int    `json:"handlers"` // signals with a handler, in all processes
	Method   string `json:"method"`   // how system calls are seen: "tracepoint" or "fexit"
	DL       int    `json:"dl"`       // libraries whose dlopen is probed
	Regions  int    `json:"regions"`  // probes on functions that mark regions (include/bpfckpt.h)
}

// Watch begins to follow a process and its descendants, those there are and those to come. The state is read once
// before it returns. Nothing is pinned: when the holder of the Watcher ends, however it ends, the kernel takes the
// probes away.
//
// Faults: those of NewIter, E_NO_SUCH_PID, and E_BAD_OPTION for the size of the ring.
func Watch(ctx context.Context, pid int, opts WatchOptions) (*Watcher, error) {
	if err := arch.Require(); err != nil {
		return nil, err
	}
	v, err := view.Own()
	if err != nil {
		return nil, err
	}
	if err := usable(v); err != nil {
		return nil, err
	}
	if _, err := procfs.Pid(pid).Stat(); errors.Is(err, &fault.Error{Code: fault.TargetGone}) {
		return nil, fault.New(fault.NoSuchPid, pidName(pid), "there is no /proc/%d", pid)
	} else if err != nil {
		return nil, err
	}
	if opts.RingBytes == 0 {
		opts.RingBytes = defaultRing
	}
	if n := opts.RingBytes; n < minRing || n > maxRing || n&(n-1) != 0 {
		return nil, fault.New(fault.BadOption, "ring", "%d bytes are no power of two from %d to %d", n, minRing,
			maxRing)
	}
	ps, err := loadProbes(v, opts)
	if err != nil {
		return nil, err
	}
	ring, err := openRing(ps.objs.Events, ps.objs.Waker, opts.RingBytes)
	if err != nil {
		ps.Close()
		return nil, fault.New(fault.BPFLoad, "ring", "%w", err)
	}
	w := &Watcher{
		root: pid, opts: opts, probes: ps, ring: ring, iter: ps.passes(), table: newTable(), dirs: map[dirKey]string{},
		using: make(chan struct{}, 1), done: make(chan struct{}), quit: make(chan struct{}),
		released: make(chan struct{}, 1),
	}
	w.code = &codeProbes{regions: newRegionProbes(ps, opts.AtStart), due: map[int]bool{}}
	if !opts.NoDL {
		w.code.dl = newDLProbes(ps)
	}
	w.stats.Method = ps.method
	if ps.kernelSeq {
		w.table.seqBits = kernelSeqBits
	}
	if err := w.begin(ctx); err != nil {
		w.release()
		return nil, err
	}
	go w.run()
	return w, nil
}

// begin follows the tree as it is and reads its state.
func (w *Watcher) begin(ctx context.Context) error {
	followed := map[int]bool{}
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("begin to watch: %w", err)
		}
		fresh := 0
		for _, pid := range descendants(w.root) {
			// A thread that is born of one not yet followed may be passed over: once more finds it, for then its parent
			// is.
			for range 2 {
				if _, err := w.iter.read(w.probes.objs.IterFollow, iterTarget{pid: uint32(pid)}, nil); err != nil {
					return readFault(pid, err)
				}
			}
			if !followed[pid] {
				followed[pid] = true
				fresh++
			}
		}
		if fresh == 0 {
			break
		}
	}
	w.findGroups()
	w.drain()
	w.repair(true)
	if len(w.table.groups) == 0 {
		return fault.New(fault.TargetGone, pidName(w.root), "it ended before it could be watched")
	}
	for pid := range w.table.groups {
		w.code.look(pid)
	}
	w.code.regions.atStart = false
	w.unseen() // setting a breakpoint takes the lock
	w.repair(true)
	return nil
}

// descendants lists a process and all below it.
func descendants(pid int) []int {
	pids := []int{pid}
	for i := 0; i < len(pids); i++ {
		tids, err := procfs.Pid(pids[i]).Tasks()
		if err != nil {
			continue
		}
		for _, tid := range tids {
			children, err := procfs.Task(pids[i], tid).Children()
			if err == nil {
				pids = append(pids, children...)
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// run takes the records until the tree ends or Close is called.
func (w *Watcher) run() {
	tidied := time.Now()
	for over := false; !over; {
		woken := true
		var failed error
		if w.ring.waiting() < w.probes.wakeBytes {
			woken, failed = w.ring.wait(idleEvery)
		}
		for end, more := w.ring.end(), true; more; {
			w.locked(func() {
				w.take(min(end, w.ring.read+batchBytes))
				more = w.ring.read < end && w.err == nil
			})
		}
		w.locked(func() {
			if !woken || time.Since(tidied) > tidyEvery {
				w.tidy()
				tidied = time.Now()
			}
			w.fail(failed)
			over = w.enough()
		})
		if !over {
			w.watchLock()
		}
	}
}

// watchLock has write sequences seen from now on, if the count alone does not do any more. Here and not as events are
// applied, for that is also done while the tree stands still; and while others may use the table, for it takes
// milliseconds.
func (w *Watcher) watchLock() {
	due := false
	w.locked(func() { due = w.table.contended && !w.probes.lockAttached && w.err == nil })
	if !due {
		return
	}
	err := w.probes.attachLock()
	w.locked(func() {
		w.probes.lockAttached = true
		w.err = err
		w.unseen() // those whose calls have not ended: nobody will tell of them
	})
}

// enough ends the watch if there is no more to do for it.
func (w *Watcher) enough() bool {
	select {
	case <-w.quit:
	default:
		if len(w.table.groups) == 0 {
			w.tidy() // to find whose birth was lost, and how the root ended, if that was found before it was told of
		}
		if len(w.table.groups) > 0 && w.err == nil {
			return false
		}
	}
	w.final = w.count()
	close(w.done)
	return true
}

// fail notes why the table is true no longer.
func (w *Watcher) fail(err error) {
	if err != nil && w.err == nil {
		w.err = fault.New(fault.BPFRead, "ring", "%w", err)
	}
}

// locked runs f while nobody else uses the table.
func (w *Watcher) locked(f func()) {
	w.using <- struct{}{}
	defer func() { <-w.using }()
	f()
}

// take applies the records that begin before upTo.
func (w *Watcher) take(upTo uint64) {
	w.took = int64(monotonic())
	w.fail(w.ring.each(upTo, func(record []byte) {
		w.stats.Events++
		w.apply(record)
	}))
}

// drain applies everything that was in the ring when it was called.
func (w *Watcher) drain() { w.take(w.ring.end()) }

// do runs f while nobody else uses the table: on the caller's goroutine, for during a freeze to wake another takes
// longer than most of what there is to do.
func (w *Watcher) do(ctx context.Context, f func()) error {
	select {
	case w.using <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("ask the watch: %w", ctx.Err())
	}
	defer func() { <-w.using }()
	select {
	case <-w.done:
		return w.over()
	default:
		f()
		return w.err // of a table that has missed something nothing is to be told
	}
}

func (w *Watcher) over() error {
	if w.err != nil {
		return w.err
	}
	return fault.New(fault.TargetGone, pidName(w.root), "the watched tree has ended")
}

// Sync brings the table up to all that happened before the call, losses repaired.
func (w *Watcher) Sync(ctx context.Context) error {
	return w.do(ctx, w.sync)
}

func (w *Watcher) sync() {
	w.catchUp()
	w.unseen()
	w.repair(true)
}

// Stats returns the counters.
func (w *Watcher) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	err := w.do(ctx, func() { s = w.count() })
	return s, err
}

func (w *Watcher) count() Stats {
	s := w.stats
	s.Lost = w.probes.lost()
	s.Groups = len(w.table.groups)
	for _, g := range w.table.groups {
		s.Threads += len(g.threads)
		s.FDs += len(g.fds)
		for i := range g.actions {
			if g.actions[i].Handler > 1 { // neither SIG_DFL nor SIG_IGN
				s.Handlers++
			}
		}
	}
	for _, m := range w.table.mms {
		s.Maps += len(m.segs)
	}
	if w.code.dl != nil {
		s.DL = w.code.dl.files
	}
	s.Regions = len(w.code.regions.points)
	return s
}

// Done is closed when the tree has ended, or the watch with Close.
func (w *Watcher) Done() <-chan struct{} { return w.done }

// Exit returns how the root of the tree ended, and whether it has. Call it after Done.
func (w *Watcher) Exit() (unix.WaitStatus, bool) { return w.status, w.rooted }

// Final returns the counters as they were when the watch ended. Call it after Done.
func (w *Watcher) Final() Stats { return w.final }

// ended forgets a thread group.
func (w *Watcher) ended(pid int, status unix.WaitStatus) {
	if pid == w.root {
		w.status, w.rooted = status, true
	}
	w.table.drop(pid)
	w.code.ended(pid)
}

// Close ends the watch and takes its probes away.
func (w *Watcher) Close() error {
	w.close.Do(func() {
		close(w.quit)
		w.ring.wake()
		<-w.done
		w.locked(w.release)
	})
	return nil
}

func (w *Watcher) release() {
	w.code.Close()
	w.ring.Close()
	w.probes.Close()
}
