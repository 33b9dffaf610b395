package fdtable

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

const kindChar = "chardev"

var _ = register(kind{
	name: kindChar, capture: captureChar, open: openChar,
})

// Majors of character devices (Documentation/admin-guide/devices.txt).
const (
	majorMem    = 1
	majorTTY    = 4
	majorTTYAux = 5
	majorPtsLo  = 136
	majorPtsHi  = 143
)

// memDevices are the minors of major 1 that keep nothing for an open descriptor.
var memDevices = map[uint32]string{3: "null", 5: "zero", 7: "full", 8: "random", 9: "urandom"}

// signalling are those of them that can send a signal when they are ready (drivers/char/random.c, random_fasync).
var signalling = map[uint32]bool{8: true, 9: true}

// classifyChar tells the devices that can be opened again from the others.
func classifyChar(d *desc) (string, error) {
	major, minor := unix.Major(d.Rdev), unix.Minor(d.Rdev)
	switch {
	case major == majorMem && memDevices[minor] != "":
		return kindChar, nil
	case major == majorTTYAux && minor == 2:
		return "", d.refuse(fault.FDDevice, "it is the controlling side of a pseudo-terminal (%s)", d.Path).
			WithRemedy("name a process that runs inside the terminal; screen, tmux, ssh and terminal emulators cannot be saved yet")
	}
	driver := ""
	if name := driverName("/proc/devices", major); name != "" {
		driver = ", driver " + name
	}
	return "", d.refuse(fault.FDDevice, "%s is character device %d:%d%s", d.Path, major, minor, driver)
}

func refuseBlock(d *desc) error {
	return d.refuse(fault.FDDevice, "%s is block device %d:%d", d.Path, unix.Major(d.Rdev), unix.Minor(d.Rdev))
}

// driverName looks a major number up among the character devices of /proc/devices, "" if it is not there.
func driverName(file string, major uint32) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	chars, _, _ := strings.Cut(string(text), "Block devices:")
	for line := range strings.Lines(chars) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == strconv.FormatUint(uint64(major), 10) {
			return f[1]
		}
	}
	return ""
}

// captureChar records a stateless device: it is opened again by name.
func captureChar(c *capturer, d *desc) error {
	var st unix.Stat_t
	err := c.in.View.Stat(strings.TrimSuffix(d.Path, procfs.Deleted), &st)
	switch {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == d.Rdev:
	case d.Rdev == unix.Mkdev(majorMem, 3):
		d.Path = os.DevNull
	default:
		return d.refuse(fault.FDDeleted, "%s no longer leads to %s", d.Path, deviceText(d.Rdev))
	}
	if unix.Major(d.Rdev) != majorMem || !signalling[unix.Minor(d.Rdev)] {
		return nil
	}
	fd, err := c.dup(d)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return c.captureOwner(d, fd)
}

// openChar opens the device again and checks that the name still leads to it. Opening others could do anything.
func openChar(b *builder, f *model.File) (int, error) {
	if unix.Major(f.Rdev) != majorMem || memDevices[unix.Minor(f.Rdev)] == "" {
		return -1, fault.New(fault.FDRecord, fileObject(f), "%s is no device that is opened again", deviceText(f.Rdev))
	}
	if err := b.checkNamed(f); err != nil {
		return -1, err
	}
	return b.openNamed(f, unix.S_IFCHR)
}

func deviceText(rdev uint64) string {
	return fmt.Sprintf("character device %d:%d", unix.Major(rdev), unix.Minor(rdev))
}
