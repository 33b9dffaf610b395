package plan

import (
	"time"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/policy"
)

// File is what a name leads to.
type File struct {
	Gone    string // why there is nothing, "" if there is something
	Mode    uint32 // st_mode
	Dev     uint64
	Ino     uint64
	Rdev    uint64
	Size    int64
	MTime   int64  // ns
	BuildID string // of an ELF file whose time differs from the one that is wanted
	NoExec  bool   // its file system is mounted noexec
}

// Types of file (inode(7)).
const (
	typeMask    = 0o170000
	typeRegular = 0o100000
	typeDir     = 0o040000
	typeChar    = 0o020000
	typeFIFO    = 0o010000
)

// Flags of open(2) that matter here (asm-generic/fcntl.h).
const (
	accessMode = 0o3
	readOnly   = 0
	pathOnly   = 0o10000000
	noFollow   = 0o400000
)

// files checks every name that the state needs.
func (b *builder) files() {
	if b.host.Files == nil {
		return
	}
	for i := range b.st.Processes {
		p := &b.st.Processes[i]
		if p.Zombie {
			continue
		}
		if p.CwdGone == nil {
			b.refuse(b.directory(p, p.Cwd))
		}
		b.refuse(b.directory(p, p.Root))
		b.mapped(&p.Exe, false)
		b.executable(p)
		for j := range p.VMAs {
			if v := &p.VMAs[j]; v.Kind == model.VMAFile {
				b.mapped(&v.File, v.Shared && v.Has("mw"))
			}
		}
	}
	for i := range b.st.Files {
		f := &b.st.Files[i]
		if !f.NamedAgain() {
			continue
		}
		if have, ok := b.host.Files[f.Path]; ok {
			b.refuse(CheckNamed(f, have))
		}
	}
}

// directory checks a working or root directory.
func (b *builder) directory(p *model.Process, dir string) *fault.Error {
	have, ok := b.host.Files[dir]
	if !ok || have.Gone == "" && have.Mode&typeMask == typeDir {
		return nil
	}
	return fault.New(fault.FileGone, dir, "pid %d has it as its working or root directory, and it is not there", p.Pid).
		WithRemedy("make the directory again")
}

// mapped checks a mapped file or an executable.
func (b *builder) mapped(want *model.MappedFile, writable bool) {
	if want.Nameless() || b.o.Side == Check { // which files have lost their names only the freeze tells
		return
	}
	if isNamed(b.st, want.Dev, want.Ino) {
		return // it is made again if it is gone, and its content is that of the state
	}
	have, ok := b.host.Files[want.Path]
	if !ok || writable && b.o.Side == Restore && have.Gone != "" {
		return // what the tree writes to may have got another name since: package fdtable looks for it
	}
	b.refuse(CheckMapped(want, b.asOf(have, want.Size, want.MTime), writable))
}

// asOf returns a file with the size and time that the state knows of, unless it may have changed since: when the tree
// runs on during a snapshot, files go on too, and what was looked at a moment earlier or later says nothing.
func (b *builder) asOf(have File, size, mtime int64) File {
	if b.o.Side != Restore {
		have.Size, have.MTime = size, mtime
	}
	return have
}

// executable refuses a file that cannot be the executable of a process any more: the kernel asks for the right to
// execute it (kernel/sys.c, prctl_set_mm_exe_file).
func (b *builder) executable(p *model.Process) {
	have, ok := b.host.Files[p.Exe.Path]
	switch {
	case !ok || have.Gone != "" || p.Exe.Nameless() || have.Mode&typeMask != typeRegular:
	case b.o.Side == Check && (have.Dev != p.Exe.Dev ||
		have.Ino != p.Exe.Ino): // it has lost its name, and is made anew
	case have.Mode&0o111 == 0:
		b.refuse(fault.New(fault.FileChanged, p.Exe.Path,
			"pid %d executes it, and it cannot be executed any more: its mode is %#o", p.Pid, have.Mode&0o7777).
			WithRemedy("let it be executed again (chmod +x)"))
	case have.NoExec:
		b.refuse(fault.New(fault.FileChanged, p.Exe.Path,
			"pid %d executes it, and it cannot be executed any more: its file system is mounted noexec", p.Pid).
			WithRemedy("mount it without noexec"))
	}
}

// CheckMapped tells whether a file is the one that was mapped: pages that the process had not changed come from it. A
// file that the tree could write to all the time (changing) may have other content, but must not be shorter: what is
// mapped of the rest would be SIGBUS to touch.
func CheckMapped(want *model.MappedFile, have File, changing bool) *fault.Error {
	switch {
	case have.Gone != "":
		return fault.New(fault.FileGone, want.Path, "%s", have.Gone)
	case have.Mode&typeMask == typeChar && have.Rdev == devZero && want.Size == 0 && want.MTime == 0:
		return nil // /dev/zero, mapped privately
	case have.Mode&typeMask != typeRegular:
		return fault.New(fault.FileChanged, want.Path, "it is no longer a regular file")
	case have.Size == want.Size && have.MTime == want.MTime:
		return nil
	case want.BuildID != "" && have.Size == want.Size && have.BuildID == want.BuildID:
		return nil
	case changing && have.Size >= want.Size:
		return nil
	case changing:
		return fault.New(fault.FileChanged, want.Path,
			"it is mapped, and it had %d bytes at the snapshot and has %d now", want.Size, have.Size)
	}
	return fault.New(fault.FileChanged, want.Path,
		"it had %d bytes and was last changed %s at the snapshot; now %d bytes, changed %s",
		want.Size, stamp(want.MTime), have.Size, stamp(have.MTime))
}

// devZero is the device number of /dev/zero as stat(2) gives it (Documentation/admin-guide/devices.txt).
const devZero = 1<<8 | 5

func stamp(ns int64) string { return time.Unix(0, ns).Format("2006-01-02 15:04:05.000000") }

// CheckNamed tells whether what the name of a description leads to is what it is to be opened on again.
func CheckNamed(f *model.File, have File) *fault.Error {
	if have.Gone != "" {
		return fault.New(fault.FileGone, f.Path, "%s", have.Gone)
	}
	if k := model.FDKindOf(f.Kind); k != nil && k.Changed != nil {
		now := model.Found{Mode: have.Mode, Dev: have.Dev, Ino: have.Ino, Rdev: have.Rdev}
		if why := k.Changed(f, now); why != "" {
			return fault.New(fault.FileChanged, f.Path, "%s", why)
		}
	}
	if want, is := f.Mode&typeMask, have.Mode&typeMask; is != want {
		return fault.New(fault.FileChanged, f.Path, "it was of type %#o and is of type %#o now", want, is)
	}
	return nil
}

// GoesOn returns which of the restore command's own standard streams f becomes, -1 for none: f is a regular file, open
// as the same stream, and it is plain that the one continues the other: ours stands where f stood, as in a script that
// runs the program twice, or our shell has cut the file short to write it anew. Otherwise the file is opened again by
// name, with a position of its own.
func GoesOn(st *model.State, f *model.File, streams [3]*Stream, pol policy.Policy) int {
	if f.Kind != "regular" || pol.Of(policy.Std) != policy.Reattach {
		return -1
	}
	for i := range st.Processes {
		for _, fd := range st.Processes[i].FDs {
			if fd.File != f.ID || fd.Num >= len(streams) || streams[fd.Num] == nil {
				continue
			}
			s := streams[fd.Num]
			if s.Dev == f.Dev && s.Ino == f.Ino && (s.Pos == f.Pos && s.Pos > 0 || s.Size < f.Size) {
				return fd.Num
			}
		}
	}
	return -1
}

// Names lists every name that a state needs, each with whether a link at its end is the file itself and not what it
// leads to.
func Names(st *model.State) map[string]bool {
	names := map[string]bool{}
	for i := range st.Processes {
		p := &st.Processes[i]
		if p.Zombie {
			continue
		}
		names[p.Root] = false
		if p.CwdGone == nil {
			names[p.Cwd] = false
		}
		if !p.Exe.Nameless() {
			names[p.Exe.Path] = false
		}
		for j := range p.VMAs {
			if v := &p.VMAs[j]; v.Kind == model.VMAFile && v.File.Unlinked == 0 {
				names[v.File.Path] = false
			}
		}
	}
	for i := range st.Files {
		f := &st.Files[i]
		if f.NamedAgain() {
			names[f.Path] = model.FDKindOf(f.Kind).NoFollow || f.Flags&(pathOnly|noFollow) == pathOnly|noFollow
		}
	}
	return names
}
