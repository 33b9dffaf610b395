package fdtable

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/policy"
)

const kindTTY = "tty"

var _ = register(kind{
	name: kindTTY, silent: true, capture: captureTTY, open: openTTY,
	is: func(d *desc) bool { return d.hasType(unix.S_IFCHR) && isTTY(d.Rdev) },
})

// isTTY tells whether a device is a terminal, but for the controlling side of a pseudo-terminal.
func isTTY(dev uint64) bool {
	major := unix.Major(dev)
	return major == majorTTY || major == majorTTYAux && unix.Minor(dev) != 2 || isPts(dev)
}

// termiosSize is the size of struct termios2 (include/uapi/asm-generic/termbits.h).
const termiosSize = 44

// captureTTY records a terminal. Descriptors of it become restore's own terminal, or its standard streams.
func captureTTY(c *capturer, d *desc) error {
	d.Std = d.std
	fd, err := c.dup(d)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := c.captureOwner(d, fd); err != nil {
		return err
	}
	if d.std == 0 && !c.itsTerminal(d) {
		return d.refuse(fault.FDDevice, "the terminal %s is neither the controlling terminal of a process nor one of their standard streams", d.Path).
			WithRemedy("let the program close it first, or start it on that terminal")
	}
	if discipline, err := unix.IoctlGetInt(fd, unix.TIOCGETD); err == nil && discipline != lineTTY {
		return d.refuse(fault.FDState, "the terminal %s has line discipline %d, as drivers of serial lines set it",
			d.Path, discipline)
	}
	for i := range c.st.Terminals {
		if c.st.Terminals[i].Rdev == d.Rdev {
			d.Term = i + 1
			return nil
		}
	}
	t := model.Terminal{Rdev: d.Rdev, Path: d.Path}
	tio, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	switch {
	case errors.Is(err, unix.EIO):
		if d.std != 0 {
			return nil // hung up: as a standard stream it gets a new far end, as any other does
		}
		return d.refuse(fault.FDState, "the terminal %s was hung up", d.Path)
	case err != nil:
		return d.refuse(fault.FDRead, "read the modes of terminal %s: %w", d.Path, err)
	default:
		if t.Termios, err = encodeTermios(tio); err != nil {
			return d.refuse(fault.FDRead, "the modes of terminal %s: %w", d.Path, err)
		}
		if ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
			t.Rows, t.Cols = ws.Row, ws.Col
		}
	}
	t.Foreground = c.foreground(d.Rdev)
	c.st.Terminals = append(c.st.Terminals, t)
	d.Term = len(c.st.Terminals)
	return nil
}

// lineTTY is N_TTY, the line discipline of a terminal (include/uapi/linux/tty.h).
const lineTTY = 0

// anyTTY is /dev/tty: the controlling terminal of whoever opens it.
var anyTTY = unix.Mkdev(majorTTYAux, 0)

// itsTerminal tells whether a terminal is the one on which the tree runs, for which that of the restore stands in; any
// other is a device.
func (c *capturer) itsTerminal(d *desc) bool {
	if d.Rdev == anyTTY {
		return true
	}
	for i := range c.st.Processes {
		if uint64(c.st.Processes[i].TTY) == d.Rdev {
			return true
		}
	}
	return slices.ContainsFunc(c.descs, func(o *desc) bool {
		return o.std != 0 && o.Mode&unix.S_IFMT == unix.S_IFCHR && o.Rdev == d.Rdev
	})
}

// foreground is the foreground process group of the controlling terminal of a process of the tree, 0 if the terminal is
// nobody's.
func (c *capturer) foreground(rdev uint64) int {
	for i := range c.st.Processes {
		p := &c.st.Processes[i]
		if uint64(p.TTY) != rdev || p.Zombie {
			continue
		}
		if s, err := procfs.Pid(p.Pid).Stat(); err == nil && s.TPGid > 0 {
			return s.TPGid
		}
	}
	return 0
}

func encodeTermios(t *unix.Termios) ([]byte, error) {
	var buf bytes.Buffer
	if err := binary.Write(&buf, binary.NativeEndian, t); err != nil {
		return nil, err
	}
	if buf.Len() != termiosSize {
		return nil, fmt.Errorf("struct termios2 has %d bytes instead of %d", buf.Len(), termiosSize)
	}
	return buf.Bytes(), nil
}

func decodeTermios(b []byte) (*unix.Termios, error) {
	var t unix.Termios
	if len(b) != termiosSize {
		return nil, fmt.Errorf("struct termios2 has %d bytes instead of %d", len(b), termiosSize)
	}
	return &t, binary.Read(bytes.NewReader(b), binary.NativeEndian, &t)
}

// openTTY attaches the description to restore's own terminal.
func openTTY(b *builder, f *model.File) (int, error) {
	if f.Term < 0 || f.Term > len(b.st.Terminals) {
		return -1, fault.New(fault.FDRecord, fileObject(f), "it names terminal %d of %d", f.Term, len(b.st.Terminals))
	}
	if b.o.Policy.Of(policy.Terminal) == policy.Null {
		return b.openNull(f)
	}
	fd, err := b.openTerminal(f)
	if err != nil {
		return -1, err
	}
	b.noteTerminal(f, fd)
	if f.Term > 0 {
		b.table.terms = append(b.table.terms, termUse{fd: fd, term: &b.st.Terminals[f.Term-1]})
	}
	return fd, nil
}

// openTerminal opens the controlling terminal, or else a standard stream that is one: as /dev/tty if it was open so,
// else by its own name.
func (b *builder) openTerminal(f *model.File) (int, error) {
	flags := int(f.Flags&(unix.O_ACCMODE|unix.O_NONBLOCK|unix.O_APPEND)) | unix.O_CLOEXEC | unix.O_NOCTTY
	fd, err := unix.Open("/dev/tty", flags, 0)
	if err == nil && f.Rdev == anyTTY {
		return fd, nil
	}
	own := uint64(0) // nobody's
	if err == nil {
		own = deviceOf(fd)
	}
	for _, std := range b.o.Std {
		if !isOpen(std) || !isTerminal(int(std.Fd())) || own != 0 && deviceOf(int(std.Fd())) != own {
			continue
		}
		if named, err := unix.Open(selfLink(int(std.Fd())), flags, 0); err == nil {
			closeTerminal(fd)
			return named, nil
		}
	}
	if named := openPts(own, flags); named >= 0 {
		closeTerminal(fd)
		return named, nil
	}
	if err == nil {
		return fd, nil
	}
	return -1, fault.New(fault.FDRebuild, fileObject(f),
		"the process has the terminal %s open, and this command has none: %w", f.Path, err).
		WithRemedy("restore from a terminal, or with --detach")
}

func closeTerminal(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

// deviceOf returns which terminal a descriptor is of, also if it was opened as /dev/tty; 0 if the kernel does not tell.
func deviceOf(fd int) uint64 {
	dev, err := unix.IoctlGetUint32(fd, unix.TIOCGDEV)
	if err != nil {
		return 0
	}
	return uint64(dev)
}

// openPts opens a pseudo-terminal by its name, -1 if it is none or the name leads elsewhere.
func openPts(dev uint64, flags int) int {
	major, minor := unix.Major(dev), unix.Minor(dev)
	if major < majorPtsLo || major > majorPtsHi {
		return -1
	}
	const minors = 256 // of each major (drivers/tty/pty.c)
	fd, err := unix.Open(fmt.Sprintf("/dev/pts/%d", (major-majorPtsLo)*minors+minor), flags, 0)
	if err != nil {
		return -1
	}
	if deviceOf(fd) != dev {
		_ = unix.Close(fd)
		return -1
	}
	return fd
}

// noteTerminal tells of a program that had a console or a serial line and gets a pseudo-terminal, or the other way
// round: what it knows of it (TERM) may not fit.
func (b *builder) noteTerminal(f *model.File, fd int) {
	dev := deviceOf(fd)
	was, is := isPts(f.Rdev), isPts(dev)
	if dev == 0 || f.Rdev == anyTTY || was == is || b.told[f.Rdev] {
		return
	}
	b.told[f.Rdev] = true
	name, _ := os.Readlink(selfLink(fd)) // for people
	b.note("the program's terminal was %s and is %s now, of another kind: if it draws on it, TERM may not fit", f.Path,
		name)
}

func isPts(dev uint64) bool { return unix.Major(dev) >= majorPtsLo && unix.Major(dev) <= majorPtsHi }

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	return err == nil
}

// termUse is a rebuilt description of a terminal and what the terminal was like.
type termUse struct {
	fd   int
	term *model.Terminal
}

// setTerminal puts the modes back if we are in the foreground of the terminal; a background job must not touch them.
// The size belongs to whoever draws the terminal, and is set only where nobody has.
func setTerminal(u termUse) error {
	if len(u.term.Termios) == 0 || !foreground(u.fd) {
		return nil
	}
	t, err := decodeTermios(u.term.Termios)
	if err != nil {
		return fault.New(fault.FDRecord, "terminal "+u.term.Path, "%w", err)
	}
	if err := unix.IoctlSetTermios(u.fd, unix.TCSETS2, t); err != nil {
		return fault.New(fault.FDRebuild, "terminal "+u.term.Path, "set its modes: %w", err)
	}
	ws, err := unix.IoctlGetWinsize(u.fd, unix.TIOCGWINSZ)
	if err == nil && ws.Row == 0 && ws.Col == 0 && u.term.Rows != 0 {
		ws.Row, ws.Col = u.term.Rows, u.term.Cols
		err = unix.IoctlSetWinsize(u.fd, unix.TIOCSWINSZ, ws)
	}
	if err != nil {
		return fault.New(fault.FDRebuild, "terminal "+u.term.Path, "set its size: %w", err)
	}
	return nil
}

// foreground tells whether our process group is the terminal's foreground one.
func foreground(fd int) bool {
	pgrp, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && pgrp == unix.Getpgrp()
}

func (b *builder) openNull(f *model.File) (int, error) {
	fd, err := unix.Open(os.DevNull, int(f.Flags&unix.O_ACCMODE)|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fault.New(fault.FDRebuild, fileObject(f), "open %s: %w", os.DevNull, err)
	}
	return fd, nil
}
