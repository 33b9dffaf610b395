package fdtable

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// ReadAttributes reads what an inode without a name has beside content, owner and mode, through any descriptor of it.
// It is to run while nobody changes it, and before its content is read.
func ReadAttributes(f *os.File) (*model.Attributes, error) {
	fd := int(f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	a := &model.Attributes{ATime: st.Atim.Nano(), MTime: st.Mtim.Nano()}
	if hint, err := lifeHint(fd); err == nil { // not every file system has it
		a.Hint = hint
	}
	names, err := listXattrs(fd)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		value, err := getXattr(fd, name)
		if errors.Is(err, unix.ENODATA) {
			continue // a security module that does not show it
		}
		if err != nil {
			return nil, err
		}
		a.XAttrs = append(a.XAttrs, model.XAttr{Name: name, Value: value})
	}
	return a, nil
}

// kept tells whether an extended attribute is the program's, and not a label that the system puts on whatever is made
// (xattr(7)).
func kept(name string) bool {
	return !strings.HasPrefix(name, "security.") && !strings.HasPrefix(name, "system.") ||
		name == "security.capability" || strings.HasPrefix(name, "system.posix_acl_")
}

func listXattrs(fd int) ([]string, error) {
	size, err := unix.Flistxattr(fd, nil)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil, nil
	}
	if err != nil || size == 0 {
		return nil, err
	}
	buf := make([]byte, size)
	if size, err = unix.Flistxattr(fd, buf); err != nil {
		return nil, err
	}
	var names []string
	for _, name := range strings.Split(strings.TrimRight(string(buf[:size]), "\x00"), "\x00") {
		if kept(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

func getXattr(fd int, name string) ([]byte, error) {
	size, err := unix.Fgetxattr(fd, name, nil)
	if err != nil {
		return nil, err
	}
	value := make([]byte, size)
	size, err = unix.Fgetxattr(fd, name, value)
	return value[:max(size, 0)], err
}

// SetAttributes gives a file that was made again what ReadAttributes read, but for its times: see SetTimes. To be
// called when its content is in it, since writing takes some of them away.
func SetAttributes(f *os.File, a *model.Attributes) error {
	if a == nil {
		return nil
	}
	fd := int(f.Fd())
	for _, x := range a.XAttrs {
		if err := unix.Fsetxattr(fd, x.Name, x.Value, 0); err != nil {
			return fault.New(fault.FDRebuild, f.Name(), "give the nameless file the extended attribute %s: %w", x.Name,
				err)
		}
	}
	if a.Hint != 0 {
		if err := setLifeHint(fd, a.Hint); err != nil {
			return fault.New(fault.FDRebuild, f.Name(), "set its write life time hint: %w", err)
		}
	}
	return nil
}

// SetTimes sets the times of last access and of last change of content. It comes last, when nobody will read or map the
// file any more before the processes run. The time of the last change of the inode is the kernel's alone.
func SetTimes(f *os.File, a *model.Attributes) error {
	if a == nil {
		return nil
	}
	times := []unix.Timespec{unix.NsecToTimespec(a.ATime), unix.NsecToTimespec(a.MTime)}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, selfLink(int(f.Fd())), times, 0); err != nil {
		return fault.New(fault.FDRebuild, f.Name(), "set the times of the nameless file: %w", err)
	}
	return nil
}
