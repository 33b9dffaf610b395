package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/regions"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// A program can mark regions in which no snapshot may be taken (include/bpfckpt.h). A watch sees its threads enter and
// leave them: then the tree is stopped at a moment when none is in one. Without a watch it is only known that a program
// has regions, and it is refused.

// Bounds of the wait for a tree to be outside of its regions.
const (
	regionPatience = 10 * time.Second
	// that a watch must have been there: a region it came into has ended by then, if it is not a long one
	regionSettle = time.Second
	// between two freezes that found a thread in a region, at least; after a long one as long as that
	regionPause = 2 * time.Millisecond
)

// holder is the source that sees regions, nil if there is none, or they are to be ignored.
func (o *Options) holder() kstate.Holder {
	h, _ := o.Live.(kstate.Holder)
	if o.IgnoreRegions {
		return nil
	}
	return h
}

// freezeOutside freezes the tree when no thread of it is in a region, and reads its state; with nobody to tell it just
// does. session.calm ends the hurry that the freeze began.
func (s *session) freezeOutside(ctx context.Context) error {
	h := s.opts.holder()
	if h != nil {
		h.Guard()
	}
	until := time.Now().Add(regionPatience)
	for attempt := 1; ; attempt++ {
		if err := s.approach(ctx, h, until); err != nil {
			return err
		}
		s.calm = hurry()
		err := timed(&s.res.Phases.Freeze, func() error { return s.tree.freeze(ctx) })
		if err == nil {
			s.frozen = true
			err = s.collect(ctx)
		}
		held := new(kstate.HeldError)
		if !errors.As(err, &held) {
			return err
		}
		stood := time.Since(s.tree.frozenAt)
		err = s.tree.letGo()
		s.calm()
		switch {
		case err != nil:
			return err
		case time.Now().After(until):
			return heldFault(held.Threads[0], attempt)
		}
		if err := timed(&s.res.Phases.Wait,
			func() error { return pauseFor(ctx, max(regionPause, stood)) }); err != nil {
			return err
		}
	}
}

// awaitFirst waits for the tree to be outside before anything is begun: a program that stays in a region is told of
// before its pages are copied, and what is known of those it wrote since the last image is kept.
func (s *session) awaitFirst(ctx context.Context) error {
	h := s.opts.holder()
	if h == nil {
		return nil
	}
	if err := preflight(s.tree.pid); err != nil {
		return err
	}
	return timed(&s.res.Phases.Wait, func() error {
		return awaitOutside(ctx, s.tree.pid, h, time.Now().Add(regionPatience))
	})
}

// approach does what comes last before a freeze: it waits for the tree to be outside, and copies what was written
// meanwhile.
func (s *session) approach(ctx context.Context, h kstate.Holder, until time.Time) error {
	ph := &s.res.Phases
	wait := func() error {
		if h == nil {
			return nil
		}
		return timed(&ph.Wait, func() error { return awaitOutside(ctx, s.tree.pid, h, until) })
	}
	if err := wait(); err != nil {
		return err
	}
	if s.res.Rounds == 0 {
		return nil
	}
	if err := timed(&ph.Precopy, func() error { return s.pre.last(ctx) }); err != nil {
		return err
	}
	s.throttle.release()
	return wait() // it may have gone in again
}

// awaitOutside waits until no thread of the running tree of pid is in a region.
func awaitOutside(ctx context.Context, pid int, h kstate.Holder, until time.Time) error {
	tree, err := findTree(pid)
	if err != nil {
		return err
	}
	limited, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	now, err := h.Held(ctx, tree)
	if err == nil && len(now.Unsure) > 0 && now.Age < regionSettle {
		err = pauseFor(ctx, regionSettle-now.Age)
	}
	if err != nil {
		return err
	}
	err = h.AwaitRelease(limited, tree)
	if err == nil || ctx.Err() != nil || limited.Err() == nil {
		return err
	}
	if now, err = h.Held(ctx, tree); err != nil || len(now.Threads) == 0 {
		return err // one more freeze
	}
	return heldFault(now.Threads[0], 0)
}

func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// heldFault tells which thread was in a region when time was up, after how many freezes.
func heldFault(t kstate.HeldThread, freezes int) error {
	nested, tries := "", ""
	if t.Depth > 1 {
		nested = fmt.Sprintf(" (%d, one in the other)", t.Depth)
	}
	if freezes > 1 {
		tries = fmt.Sprintf(", and each of %d times it was stopped a thread was in one again", freezes)
	}
	return fault.New(fault.Held, fmt.Sprintf("thread %d of pid %d", t.Tid, t.Pid),
		"it has been in a region%s for %v; it was waited for %v%s",
		nested, t.For.Round(time.Microsecond), regionPatience, tries)
}

// unsure tells what a watch that came late cannot know.
func unsure(h *kstate.Held) []string {
	if len(h.Unsure) == 0 {
		return nil
	}
	names := make([]string, len(h.Unsure))
	for i, pid := range h.Unsure {
		names[i] = fmt.Sprint(pid)
	}
	return []string{fmt.Sprintf("the program marks regions in which no snapshot may be taken, and was running when "+
		"the watch began to see them, %v ago (pid %s): whether it has been in one since then is not known; "+
		"bpfckpt run starts it under a watch", h.Age.Round(time.Second), strings.Join(names, ", "))}
}

// codeSeen are the files that were looked at for regions, when nobody sees whether a thread is in one.
type codeSeen struct {
	view  *view.View
	files map[inode]bool
	names map[string]bool
}

func newCodeSeen(v *view.View) *codeSeen { return &codeSeen{v, map[inode]bool{}, map[string]bool{}} }

// blockers lists the processes that have mapped a file with regions.
func (c *codeSeen) blockers(pids []int) (fault.List, error) {
	var list fault.List
	for _, pid := range pids {
		maps, err := procfs.Pid(pid).Maps()
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range maps {
			m := &maps[i]
			if m.Prot&unix.PROT_EXEC == 0 || !m.HasFile() || m.Ino == 0 {
				continue
			}
			key := inode{unix.Mkdev(m.Major, m.Minor), m.Ino}
			if c.files[key] {
				continue
			}
			why := c.hasRegions(fmt.Sprintf("/proc/%d/map_files/%s", pid, m.Key()), m)
			if errors.Is(why, errUnmapped) {
				continue // it was not looked at; another process may have it, or this one when it is stopped
			}
			c.files[key], c.names[strings.TrimSuffix(m.Name, procfs.Deleted)] = true, true
			if why != nil {
				list = append(list, fault.New(fault.Regions, pidName(pid), "%w", why).WithRemedy(regionRemedy, pid))
			}
		}
	}
	return list, nil
}

const regionRemedy = "begin a watch before it is in a region: bpfckpt watch %d --background, or start it with bpfckpt run; --ignore-regions takes a snapshot all the same"

// errUnmapped says that a mapping, or its process, is gone.
var errUnmapped = errors.New("it is not mapped any more")

// hasRegions looks at a mapped file, by its link below map_files or, without the right to follow that, by its name. The
// error tells that it has regions, or that this cannot be found out, or is errUnmapped.
func (c *codeSeen) hasRegions(link string, m *procfs.Map) error {
	f, err := c.openRegular(link)
	if errors.Is(err, fs.ErrPermission) {
		f, err = c.openNamed(m)
	} else if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return errUnmapped
	}
	if err != nil {
		return fmt.Errorf("whether %s marks regions cannot be told: %w", m.Name, err)
	}
	if f == nil {
		return nil
	}
	defer f.Close()
	return regionsOf(f, m.Name)
}

// openNamed opens a mapped file by its name, if that leads to it.
func (c *codeSeen) openNamed(m *procfs.Map) (*os.File, error) {
	f, err := c.openRegular(m.Name)
	if err != nil || f == nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && st.Ino == m.Ino { // the device differs on some file systems
		return f, nil
	}
	_ = f.Close() // read only
	return nil, errors.Join(err, errors.New("its name leads to another file"))
}

// regionsOf is an error if a file has regions, or if that cannot be found out.
func regionsOf(r io.ReaderAt, name string) error {
	marks, err := regions.Find(r)
	switch {
	case err != nil:
		return fmt.Errorf("whether %s marks regions cannot be told: %w", name, err)
	case marks.Any():
		return fmt.Errorf("%s marks regions in which no snapshot may be taken, and there is no watch to see them", name)
	}
	return nil
}

// openRegular opens a regular file; nil for another kind. Opening a device may do something.
func (c *codeSeen) openRegular(path string) (*os.File, error) {
	var st unix.Stat_t
	if err := c.view.Stat(path, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, nil
	}
	return os.Open(path)
}

// late looks at the files that the stopped tree had mapped as code and that it had not before: if one has regions,
// there will be no image. Where nobody looks for regions there is nothing to look at.
func (c *codeSeen) late(processes []model.Process, code *codeFiles) error {
	if c == nil {
		return nil
	}
	for i := range processes {
		p := &processes[i]
		for j := range p.VMAs {
			v := &p.VMAs[j]
			key := inode{v.File.Dev, v.File.Ino}
			if v.Kind != model.VMAFile || v.Prot&unix.PROT_EXEC == 0 || c.files[key] {
				continue
			}
			c.files[key] = true
			if why := c.lateFile(&v.File, code.file(&v.File)); why != nil {
				return fault.New(fault.Regions, pidName(p.Pid), "%w", why).WithRemedy(regionRemedy, p.Pid)
			}
		}
	}
	return nil
}

// lateFile looks at one of them; f is the file, nil if its name does not lead to it.
func (c *codeSeen) lateFile(m *model.MappedFile, f *os.File) error {
	switch {
	case f != nil:
		return regionsOf(f, m.Path)
	case c.names[m.Path]: // a file system of which /proc tells other numbers
		return nil
	}
	return fmt.Errorf("whether %s marks regions cannot be told: it was mapped just now, and its name does not lead to it", m.Path)
}
