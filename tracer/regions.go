package tracer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/regions"
)

// regionProbes are the uprobes on the functions of include/bpfckpt.h, in all files of followed processes that have
// them.
//
// What is counted (bpf/probe_hold.h) is exact for a thread that was outside of all regions at a time when the probes
// were there already. That is known of threads that were born since, and of programs that were executed since. Of the
// others it is told that it is not.
type regionProbes struct {
	hold, release *ebpf.Program
	known         map[codeID]codeFile
	points        []kstate.Breakpoint
	links         []link.Link
	procs         map[int]*codeUse
	atStart       bool // the processes have not begun to run: no thread is in a region yet
}

// codeID tells a file, and whether it has been changed or replaced.
type codeID struct {
	fileID
	size, ctime int64 // bytes, ns
}

// codeFile is what is known of a file.
type codeFile struct {
	regions bool
	since   uint64 // since when all its probes are there, CLOCK_MONOTONIC ns; 0: since before anybody could pass one
	err     error  // why it is not known where its regions are, or they cannot be probed
}

// codeUse is what is known of a process.
type codeUse struct {
	looked  uint64 // when it was last looked at, CLOCK_MONOTONIC ns
	regions bool   // it has mapped a file with regions
	since   uint64 // threads that were in no region at this time or later are counted right
	err     error  // why it is not known whether a thread is in a region
}

func newRegionProbes(ps *probes, atStart bool) *regionProbes {
	return &regionProbes{
		hold: ps.objs.OnHold, release: ps.objs.OnRelease, known: map[codeID]codeFile{}, procs: map[int]*codeUse{},
		atStart: atStart,
	}
}

// use returns what is known of a process.
func (r *regionProbes) use(pid int) *codeUse {
	u := r.procs[pid]
	if u == nil {
		u = &codeUse{}
		r.procs[pid] = u
	}
	return u
}

// look looks at a file that a process has mapped as code, and reports whether probes were set.
func (r *regionProbes) look(path string, id fileID, u *codeUse) (fresh bool) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		if !errors.Is(err, fs.ErrNotExist) { // else it is unmapped, or the process has ended
			u.err = fmt.Errorf("%s: %w", path, err)
		}
		return false
	}
	key := codeID{id, st.Size, st.Ctim.Nano()}
	f, ok := r.known[key]
	if !ok {
		before := len(r.points)
		err := openCode(path, func(file *os.File) (err error) {
			f.regions, err = r.attach(file, id)
			return err
		})
		if errors.Is(err, fs.ErrNotExist) {
			return false
		}
		f.err = err
		if !r.atStart {
			f.since = monotonic()
		}
		r.known[key] = f
		fresh = len(r.points) > before
	}
	if f.err != nil {
		u.err = f.err
	}
	if f.regions {
		u.regions = true
		// What was probed before the process was last looked at, it has mapped with the probes in place.
		if f.since > u.looked {
			u.since = max(u.since, f.since)
		}
	}
	return fresh
}

// attach probes the marks of a file, and reports whether it has any.
func (r *regionProbes) attach(f *os.File, id fileID) (bool, error) {
	marks, err := regions.Find(f)
	if err != nil || !marks.Any() {
		return false, err
	}
	ex, err := link.OpenExecutable(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return true, fmt.Errorf("open it for probes: %w", err)
	}
	// A release without its hold does nothing, a hold without its release would be for ever.
	for _, kind := range []struct {
		name string
		at   []uint64
		prog *ebpf.Program
	}{{"bpfckpt_release", marks.Release, r.release}, {"bpfckpt_hold", marks.Hold, r.hold}} {
		for _, offset := range kind.at {
			if err := r.probe(ex, kind.name, kind.prog,
				kstate.Breakpoint{Dev: id.dev, Ino: id.ino, Offset: int64(offset)}); err != nil {
				return true, err
			}
		}
	}
	return true, nil
}

// probe sets one probe, unless it is there: a file may have got another name or mode.
func (r *regionProbes) probe(ex *link.Executable, name string, prog *ebpf.Program, at kstate.Breakpoint) error {
	for _, p := range r.points {
		if p == at {
			return nil
		}
	}
	l, err := ex.Uprobe(name, prog, &link.UprobeOptions{Address: uint64(at.Offset)})
	if err != nil {
		return fmt.Errorf("set a probe: %w", err)
	}
	r.links = append(r.links, l)
	r.points = append(r.points, at)
	return nil
}

var _ kstate.Holder = (*WatchSource)(nil)

// Guard implements kstate.Holder.
func (s *WatchSource) Guard() { s.guard = true }

func (w *Watcher) refuseHeld(b *builder, pids []int) (err error) {
	b.out.Held, err = w.held(pids)
	if err == nil && len(b.out.Held.Threads) > 0 {
		err = &kstate.HeldError{Held: b.out.Held}
	}
	return err
}

// Held implements kstate.Holder.
func (s *WatchSource) Held(ctx context.Context, pids []int) (kstate.Held, error) {
	var out kstate.Held
	var failed error
	err := s.w.do(ctx, func() {
		s.w.catchUp()
		out, failed = s.w.held(pids)
	})
	if err == nil {
		err = failed
	}
	return out, err
}

// held asks the probes. The table has taken all records there are.
func (w *Watcher) held(pids []int) (out kstate.Held, err error) {
	for _, pid := range pids {
		if w.code.due[pid] || w.code.regions.procs[pid] == nil {
			if w.code.look(pid) {
				w.unseen() // setting a breakpoint takes the lock
			}
		}
		u := w.code.regions.use(pid)
		if u.err != nil {
			return out, fault.New(fault.Regions, pidName(pid), "whether it is in a region cannot be told: %w", u.err)
		}
		if !u.regions {
			continue
		}
		if err := w.heldOf(pid, u, &out); err != nil {
			return out, err
		}
	}
	return out, nil
}

// heldOf asks for one process.
func (w *Watcher) heldOf(pid int, u *codeUse, out *kstate.Held) error {
	sure := true
	var g bpf.WatchWatchedGroup
	if err := w.probes.objs.Groups.Lookup(int32(pid), &g); err != nil || g.Missed != 0 {
		sure = false // it is not followed, or a call was not counted
	}
	if u.since == 0 && g.Held == 0 && sure {
		return nil
	}
	now := monotonic()
	b, err := w.iter.read(w.probes.objs.IterHeld, iterTarget{pid: uint32(pid)}, nil)
	if err == nil {
		err = eachRecord(b, func(_ bpf.IterRecKind, fixed, _ []byte) error {
			r := recordOf[bpf.WatchHeldRec](fixed)
			sure = sure && r.SureSince >= u.since
			if r.Depth > 0 {
				out.Threads = append(out.Threads, kstate.HeldThread{
					Pid: pid, Tid: int(r.Tid), Depth: int(r.Depth), For: time.Duration(now - min(now, r.Since)),
				})
			}
			return nil
		})
	}
	if err != nil {
		return readFault(pid, err)
	}
	if !sure {
		age := time.Duration(now - min(now, u.since))
		if len(out.Unsure) == 0 || age < out.Age {
			out.Age = age
		}
		out.Unsure = append(out.Unsure, pid)
	}
	return nil
}

// releasePoll is how long a record of a thread that left its region may be waited for, should it have been lost.
const releasePoll = 50 * time.Millisecond

// AwaitRelease implements kstate.Holder.
func (s *WatchSource) AwaitRelease(ctx context.Context, pids []int) error {
	if err := s.w.waiting(ctx, 1); err != nil {
		return err
	}
	defer func() { _ = s.w.waiting(context.WithoutCancel(ctx), -1) }() // it fails when the watch is over
	for {
		now, err := s.Held(ctx, pids)
		if err != nil || len(now.Threads) == 0 {
			return err
		}
		select {
		case <-s.w.released:
		case <-time.After(releasePoll):
		case <-s.w.done:
			return s.w.over()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// waiting has threads that leave their last region told of, while anybody waits for that.
func (w *Watcher) waiting(ctx context.Context, more int) error {
	var failed error
	err := w.do(ctx, func() {
		if failed = w.probes.objs.HoldWaiters.Set(uint32(w.waiters + more)); failed == nil {
			w.waiters += more
		}
	})
	if err == nil && failed != nil {
		err = fault.New(fault.BPFRead, "probes", "wait for a region to end: %w", failed)
	}
	return err
}
