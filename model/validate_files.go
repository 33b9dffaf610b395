package model

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

func (c *validator) shmem(s *Shmem) error {
	if err := errors.Join(c.space(s.Space), s.Attributes.check()); err != nil {
		return err
	}
	return firstBad(
		rule{s.Size < 0 || s.Size > MaxAddr, "its size is absurd"},
		rule{s.Kind != "anon" && s.Kind != "memfd", fmt.Sprintf("its kind %q is unknown", s.Kind)},
		rule{strings.Contains(s.Name, "\x00"), "its name has a zero byte"},
	)
}

func (c *validator) unlinkedFile(g *UnlinkedFile) error {
	if err := errors.Join(c.space(g.Space), g.Attributes.check()); err != nil {
		return err
	}
	return firstBad(
		rule{g.Size < 0 || g.Size > MaxAddr, "its size is absurd"},
		rule{strings.Contains(g.Path, "\x00"), "its path has a zero byte"},
	)
}

func (c *validator) named(g *UnlinkedFile) error {
	if err := c.unlinkedFile(g); err != nil {
		return err
	}
	return firstBad(rule{!path(g.Path), "its path is not absolute"})
}

// Limits of extended attributes (include/uapi/linux/limits.h).
const (
	maxXattrName = 255
	maxXattr     = 1 << 16
)

// check checks what an inode without a name has beside content.
func (a *Attributes) check() error {
	if a == nil {
		return nil
	}
	return each("extended attribute", a.XAttrs, func(x *XAttr) error {
		return firstBad(
			rule{x.Name == "" || len(x.Name) > maxXattrName || strings.Contains(x.Name, "\x00"), "its name is none"},
			rule{len(x.Value) > maxXattr, "it is longer than one can be"},
		)
	})
}

func (c *validator) pipe(p *Pipe) error {
	held := len(p.Data)
	if p.Space != 0 {
		if err := c.space(p.Space); err != nil {
			return err
		}
		held = p.Size // Data is read after the page map
		c.contents += held
	}
	rest := held
	for _, n := range p.Packets {
		if n <= 0 || n > rest {
			return errors.New("its packets are not its data")
		}
		rest -= n
	}
	return firstBad(
		rule{p.Capacity <= 0 || p.Capacity > maxPipe, "its capacity is absurd"},
		rule{held > p.Capacity, "it holds more than its capacity"},
		rule{(p.Space != 0) != (p.Size != 0) || p.Size != 0 && p.Size < LeastContent ||
			c.contents > MaxContents, "the size of its content is absurd"},
		rule{p.Space != 0 && p.Data != nil && len(p.Data) != p.Size, "its content is not as long as it says"},
		rule{len(p.Packets) > 0 && rest != 0, "its packets are not its data"},
		rule{p.Path != "" && !path(p.Path), "its path is not absolute"},
	)
}

func (c *validator) terminal(t *Terminal) error {
	const termios2 = 44 // sizeof(struct termios2), asm-generic/termbits.h
	return firstBad(
		rule{len(t.Termios) != termios2, fmt.Sprintf("its settings have %d bytes", len(t.Termios))},
		rule{t.Foreground < 0 || t.Foreground > maxPid, "its foreground group is none"},
	)
}

func (c *validator) file(f *File) error {
	st := c.st
	err := firstBad(
		rule{f.ID <= 0 || c.files[f.ID], fmt.Sprintf("its id, %d, is none or is also another's", f.ID)},
		rule{f.Kind == "", "it has no kind"},
		rule{!index(f.Unlinked, len(st.Unlinked)), "it names an unlinked file that does not exist"},
		rule{!index(f.Shmem, len(st.Shmems)), "it names a shmem that does not exist"},
		rule{!index(f.Pipe, len(st.Pipes)), "it names a pipe that does not exist"},
		rule{!index(f.Term, len(st.Terminals)), "it names a terminal that does not exist"},
		rule{!index(f.Std, 3), "it is a standard stream that does not exist"},
		rule{f.Removed != nil && strings.Contains(f.Removed.Target, "\x00"), "its link has a zero byte"},
		rule{f.Size < 0 || f.Pos < 0, "its size or offset is negative"},
		rule{strings.Contains(f.Path, "\x00"), "its path has a zero byte"},
		rule{!sig(f.Owner.Signal), "its owner's signal is none"},
	)
	if err != nil {
		return err
	}
	c.files[f.ID] = true
	return each("lock", f.Locks, func(l *Lock) error {
		return firstBad(
			rule{
				!slices.Contains([]string{"FLOCK", "POSIX", "OFDLCK"}, l.Type),
				fmt.Sprintf("its type %q is unknown", l.Type),
			},
			rule{l.Start < 0 || l.End < -1 || l.End != -1 && l.End < l.Start, "its range is none"},
		)
	})
}

// ofKind checks what a description has of its kind, once all that it may lead to has been seen.
func (c *validator) ofKind(f *File) error {
	if err := checkFDKind(f); err != nil {
		return err
	}
	refs := f.Refers()
	for _, id := range refs.Files {
		if !c.files[id] || id == f.ID {
			return fmt.Errorf("it names file %d, which does not exist or is itself", id)
		}
	}
	for _, pid := range refs.Pids {
		if !slices.ContainsFunc(c.st.Processes, func(p Process) bool { return p.Pid == pid }) {
			return fmt.Errorf("it names process %d, which does not exist", pid)
		}
	}
	return nil
}
