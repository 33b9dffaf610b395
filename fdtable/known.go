package fdtable

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// Known is what an image knows of a regular file that its processes have open or mapped: enough to tell it from another
// that has its name now, and from what it has become since.
type Known struct {
	Path         string
	Dev, Ino     uint64 // as stat(2) gives them
	Born         int64  // ns, 0 if the file system does not tell
	Size         int64
	MTime, CTime int64 // ns; CTime is 0 if the image does not have it
}

// KnownMapped is what an image knows of a mapped file.
func KnownMapped(m *model.MappedFile) Known {
	return Known{Path: m.Path, Dev: m.Dev, Ino: m.Ino, Born: m.Born, Size: m.Size, MTime: m.MTime, CTime: m.CTime}
}

func knownFile(f *model.File) Known {
	return Known{Path: f.Path, Dev: f.Dev, Ino: f.Ino, Born: f.Born, Size: f.Size, MTime: f.MTime, CTime: f.CTime}
}

// Find looks for the file: under its name, or under another in the same directory that it has got since, as a log does
// that was rotated. If it is in neither place, a file of its name with its size and its time of last change is taken
// for a faithful copy of it. It returns where the file is and what is known of it now. The error is fault.FileGone or
// fault.FileChanged.
func (k Known) Find(v *view.View) (Known, error) {
	at, mode, err := knownNow(v, k.Path, 0)
	if err == nil && mode == unix.S_IFREG && k.sameAs(at) {
		return at, nil
	}
	if moved, ok := k.moved(v); ok {
		return moved, nil
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return at, fault.New(fault.FileGone, k.Path, "%w", err)
	case err != nil:
		return at, fault.New(fault.FDRebuild, k.Path, "look at it: %w", err)
	case mode != unix.S_IFREG:
		return at, fault.New(fault.FileChanged, k.Path, "it was a regular file and no longer is")
	case at.Size == k.Size && at.MTime == k.MTime:
		return at, nil
	}
	const why = "another file has its name now: inode %d with %d bytes, changed %s; " +
		"at the snapshot it was inode %d with %d bytes, changed %s"
	return at, fault.New(fault.FileChanged, k.Path, why, at.Ino, at.Size, stamp(at.MTime), k.Ino, k.Size,
		stamp(k.MTime)).
		WithRemedy("move the file of the snapshot back to this name, or to any name in the same directory; " +
			"or put a copy here that has its size and time (cp -p)")
}

// sameAs tells whether what was found is the very file. When it was made counts before the device number, which not
// every file system keeps over a mount or a reboot.
func (k Known) sameAs(now Known) bool {
	if k.Ino != now.Ino {
		return false
	}
	if k.Born != 0 && now.Born != 0 {
		return k.Born == now.Born
	}
	return k.Dev == now.Dev
}

// moved looks for another name of the file in the directory where it was.
func (k Known) moved(v *view.View) (Known, bool) {
	dir := filepath.Dir(k.Path)
	entries, err := v.ReadDir(dir)
	if err != nil {
		return k, false
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		at, mode, err := knownNow(v, filepath.Join(dir, e.Name()), unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && mode == unix.S_IFREG && k.sameAs(at) {
			return at, true
		}
	}
	return k, false
}

// changed says how the file differs from what the image knows of it, "" if in nothing that tells of its content.
// touched reports that the inode alone was changed since: its name, its mode, or its content by somebody who put the
// time back.
func (k Known) changed(now Known) (how string, touched bool) {
	switch {
	case k.Size != now.Size:
		return fmt.Sprintf("it had %d bytes and has %d now", k.Size, now.Size), false
	case k.MTime != now.MTime:
		const how = "its content was last changed %s, and at the snapshot it was of %s"
		return fmt.Sprintf(how, stamp(now.MTime), stamp(k.MTime)), false
	}
	return "", k.CTime != 0 && k.CTime != now.CTime && k.sameAs(now) && k.Path == now.Path
}

// knownNow looks at what is at path, and returns the type bits of its mode too.
func knownNow(v *view.View, path string, flags int) (Known, uint32, error) {
	var st unix.Statx_t
	err := v.Statx(path, flags, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	if err != nil {
		return Known{Path: path}, 0, err
	}
	k := Known{
		Path: path, Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino, Size: int64(st.Size),
		MTime: nanos(st.Mtime), CTime: nanos(st.Ctime),
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		k.Born = nanos(st.Btime)
	}
	return k, uint32(st.Mode) & unix.S_IFMT, nil
}

func nanos(t unix.StatxTimestamp) int64 { return t.Sec*int64(time.Second) + int64(t.Nsec) }

// birth returns when the file was made, in ns, if its name still leads to it and its file system tells; else 0.
func (k Known) birth(v *view.View) int64 {
	if at, _, err := knownNow(v, k.Path, 0); err == nil && k.sameAs(at) {
		return at.Born
	}
	return 0
}

func stamp(ns int64) string { return time.Unix(0, ns).Format("2006-01-02 15:04:05.000000") }
