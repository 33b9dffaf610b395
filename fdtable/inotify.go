package fdtable

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

const kindInotify = "inotify"

var _ = register(kind{
	name: kindInotify, links: []string{"anon_inode:inotify"}, capture: captureInotify, open: openInotify,
})

// captureInotify records the watches of an inotify instance. fdinfo names what is watched by a file handle, which leads
// to the file itself and by that to its present name (fs/notify/fdinfo.c, inotify_fdinfo).
func captureInotify(c *capturer, d *desc) error {
	info, err := c.ownInfo(d)
	if err != nil {
		return err
	}
	fd, err := c.dup(d)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := c.captureOwner(d, fd); err != nil {
		return err
	}
	if left, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err != nil || left != 0 {
		return d.refuse(fault.FDState, "%d bytes of its events have not been read yet", left).
			WithRemedy("try again when the program has read them")
	}
	state := &model.Inotify{}
	d.Of = state
	for _, l := range info.Lines {
		w, err := c.watch(l)
		if err != nil {
			return d.refuse(fault.FDState, "a watch of it cannot be followed: %w", err)
		}
		state.Watches = append(state.Watches, w)
	}
	slices.SortFunc(state.Watches, func(a, b model.Watch) int { return cmp.Compare(a.WD, b.WD) })
	return nil
}

// watch finds the name of what one line of fdinfo watches:
// "inotify wd:1 ino:2 sdev:fe00000 mask:100 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:0200000000000000".
func (c *capturer) watch(l procfs.Line) (model.Watch, error) {
	line := l.Key + ":" + l.Value
	rest, ok := strings.CutPrefix(line, "inotify ")
	if !ok {
		return model.Watch{}, fmt.Errorf("its fdinfo has the unknown line %q", line)
	}
	values := map[string]string{}
	for _, f := range strings.Fields(rest) {
		key, value, ok := strings.Cut(f, ":")
		if !ok {
			return model.Watch{}, fmt.Errorf("its fdinfo has the unknown field %q", f)
		}
		values[key] = value
	}
	wd, err1 := strconv.ParseInt(values["wd"], 16, 32)
	mask, err2 := strconv.ParseUint(values["mask"], 16, 32)
	dev, err3 := strconv.ParseUint(values["sdev"], 16, 32)
	ino, err4 := strconv.ParseUint(values["ino"], 16, 64)
	typ, err5 := strconv.ParseInt(values["fhandle-type"], 16, 32)
	handle, err6 := hex.DecodeString(values["f_handle"])
	for _, err := range []error{err1, err2, err3, err4, err5, err6} {
		if err != nil {
			return model.Watch{}, fmt.Errorf("line %q: %w", line, err)
		}
	}
	path, err := c.pathOfHandle(kernelDev(dev), ino, unix.NewFileHandle(int32(typ), handle))
	return model.Watch{WD: int(wd), Path: path, Mask: uint32(mask)}, err
}

// kernelDev turns a device number as the kernel keeps it (20 bits of minor) into stat(2)'s.
func kernelDev(dev uint64) uint64 { return unix.Mkdev(uint32(dev>>20), uint32(dev&0xfffff)) }

// pathOfHandle returns a name that leads to the file of a handle on a device.
func (c *capturer) pathOfHandle(dev, ino uint64, h unix.FileHandle) (string, error) {
	mounts, err := c.in.View.Mounts()
	if err != nil {
		return "", err
	}
	err = fmt.Errorf("no mount of device %d:%d", unix.Major(dev), unix.Minor(dev))
	for _, m := range mounts {
		if m.Dev != dev {
			continue
		}
		var path string
		if path, err = c.openHandle(m.Point, ino, h); err == nil {
			return path, nil
		}
	}
	return "", err
}

func (c *capturer) openHandle(mount string, ino uint64, h unix.FileHandle) (string, error) {
	root, err := c.in.View.Open(mount, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := unix.OpenByHandleAt(root, h, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	path, err := os.Readlink(selfLink(fd))
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := c.in.View.Lstat(path, &st); err != nil || st.Ino != ino {
		return "", fmt.Errorf("%s no longer leads to it", path)
	}
	return path, nil
}

// openInotify makes the instance and its watches under their old numbers.
func openInotify(b *builder, f *model.File) (int, error) {
	state, ok := f.Of.(*model.Inotify)
	if !ok {
		return -1, fault.New(fault.FDRecord, fileObject(f), "an inotify instance without what it watches")
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return -1, fault.New(fault.FDRebuild, fileObject(f), "make it: %w", err)
	}
	for _, w := range state.Watches {
		if err := addWatch(fd, w); err != nil {
			_ = unix.Close(fd)
			return -1, fault.New(fault.FDRebuild, fileObject(f), "watch %s again: %w", w.Path, err)
		}
	}
	return b.checkFlags(f, fd)
}

// watchMask are the bits of a watch that fdinfo shows and inotify_add_watch(2) takes; the others the kernel adds by
// itself.
const watchMask = unix.IN_ALL_EVENTS | unix.IN_ONESHOT | unix.IN_EXCL_UNLINK

// setNextWD is INOTIFY_IOC_SETNEXTWD, _IOW('I', 0, __s32) (include/uapi/linux/inotify.h), Linux 4.16 with
// CONFIG_CHECKPOINT_RESTORE.
const setNextWD = 0x40044900

func addWatch(fd int, w model.Watch) error {
	if err := unix.IoctlSetInt(fd, setNextWD, w.WD); err != nil {
		return fmt.Errorf("choose number %d: %w", w.WD, err)
	}
	wd, err := unix.InotifyAddWatch(fd, w.Path, w.Mask&watchMask)
	if err == nil && wd != w.WD {
		err = fmt.Errorf("it is number %d instead of %d", wd, w.WD)
	}
	return err
}
