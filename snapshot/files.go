package snapshot

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// identifier finds out, under the freeze, which file each mapping really is, and opens those that have no name any
// more: once the tree runs on it may unmap them, and then nothing leads to them.
type identifier struct {
	view     *view.View
	st       *model.State
	known    map[model.MappedFile]model.MappedFile // as a source gave it -> complete
	shmems   map[inode]int                         // 1-based index into st.Shmems
	unlinked map[inode]int                         // 1-based index into st.Unlinked
	linked   map[int]bool                          // those of them that have a name somewhere
	lower    map[int]bool                          // those whose name may be one in the lower layer of an overlay only
	named    map[inode]bool                        // what namedMemory has looked at
	contents contents
	blockers fault.List
}

type inode struct{ dev, ino uint64 }

// contents are the open files of objects whose content belongs into the image.
type contents struct {
	shmems   []*os.File // by index into State.Shmems
	unlinked []*os.File // by index into State.Unlinked
	named    []*os.File // by index into State.Named
}

func (c *contents) close() {
	for _, f := range slices.Concat(c.shmems, c.unlinked, c.named) {
		if f != nil {
			_ = f.Close() // opened for reading only
		}
	}
	c.shmems, c.unlinked, c.named = nil, nil, nil
}

func newIdentifier(v *view.View, st *model.State) *identifier {
	id := &identifier{
		view: v, st: st, known: map[model.MappedFile]model.MappedFile{}, shmems: map[inode]int{},
		unlinked: map[inode]int{}, linked: map[int]bool{}, lower: map[int]bool{}, named: map[inode]bool{},
	}
	for i := range st.Shmems {
		id.shmems[inode{st.Shmems[i].Dev, st.Shmems[i].Ino}] = i + 1
	}
	for i := range st.Unlinked {
		id.unlinked[inode{st.Unlinked[i].Dev, st.Unlinked[i].Ino}] = i + 1
	}
	return id
}

// identify completes the mapped files of all processes, and State.Shmems and State.Unlinked with what is mapped.
func (id *identifier) identify() error {
	for i := range id.st.Processes {
		p := &id.st.Processes[i]
		if p.Zombie {
			continue
		}
		if err := id.executable(p); err != nil {
			return err
		}
		for j := range p.VMAs {
			v := &p.VMAs[j]
			if v.Kind != model.VMAFile && v.Kind != model.VMAShmem {
				continue
			}
			link := fmt.Sprintf("/proc/%d/map_files/%x-%x", p.Pid, v.Start, v.End)
			if v.Kind == model.VMAShmem && anonymousObject(&v.File) {
				var err error
				if v.Shmem, err = id.shmem(&v.File, link, vmaName(p.Pid, v)); err != nil {
					return err
				}
				continue
			}
			v.Kind = model.VMAFile // a deleted file of a tmpfs is a file: descriptors of it are treated alike
			if err := id.file(&v.File, link, vmaName(p.Pid, v)); err != nil {
				return err
			}
			if err := id.namedMemory(v, link, vmaName(p.Pid, v)); err != nil {
				return err
			}
			if v.Shared && id.linked[v.File.Unlinked] && (v.Has("mw") || !id.lower[v.File.Unlinked]) {
				id.blockers = append(id.blockers, fault.New(fault.Mapping, vmaName(p.Pid, v),
					"%s no longer leads to the file it maps and shares, which lives on under another name (hard link)",
					v.File.Path).
					WithRemedy("give the file a name in the directory where it was"))
			}
		}
	}
	if err := id.openRest(); err != nil {
		return err
	}
	return id.attributes()
}

// attributes reads what nameless files and memfds have beside content, owner and mode, before anybody reads their
// content.
func (id *identifier) attributes() (err error) {
	for i := range id.st.Unlinked {
		g := &id.st.Unlinked[i]
		if g.Attributes, err = attributesOf(id.contents.unlinked, i); err != nil {
			return id.unreadable(g.Path, "its attributes", err)
		}
	}
	for i := range id.st.Shmems {
		s := &id.st.Shmems[i]
		if s.Kind != "memfd" {
			continue
		}
		if s.Attributes, err = attributesOf(id.contents.shmems, i); err != nil {
			return id.unreadable("memfd "+s.Name, "its attributes", err)
		}
	}
	return nil
}

func attributesOf(files []*os.File, i int) (*model.Attributes, error) {
	if i >= len(files) || files[i] == nil {
		return nil, nil
	}
	return fdtable.ReadAttributes(files[i])
}

// anonymousObject tells whether a file is an object that never had a name: shared anonymous memory or a memfd.
func anonymousObject(f *model.MappedFile) bool {
	return strings.HasPrefix(f.Path, "/memfd:") || strings.HasPrefix(f.Path, "/dev/zero")
}

// file completes f, which is open or mapped through link in /proc.
func (id *identifier) file(f *model.MappedFile, link, object string) error {
	asked := *f
	if done, ok := id.known[asked]; ok {
		*f = done
		return nil
	}
	var named unix.Stat_t
	byName := id.view.Stat(f.Path, &named)
	if byName != nil || named.Dev != f.Dev || named.Ino != f.Ino {
		// The kernel's tables number some file systems' files (btrfs, overlayfs) in another way than stat(2) does: ask
		// stat.
		var real unix.Stat_t
		if err := id.view.Stat(link, &real); err != nil {
			return id.unreadable(object, f.Path, err)
		}
		f.Dev, f.Ino = real.Dev, real.Ino
		if byName != nil || named.Dev != real.Dev || named.Ino != real.Ino {
			return id.unlinkedFile(f, asked, link, object, &real)
		}
	}
	setFacts(f, &named)
	id.known[asked] = *f
	return nil
}

// setFacts records what restore compares. A device node's size and time say nothing about it.
func setFacts(f *model.MappedFile, st *unix.Stat_t) {
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		f.Size, f.MTime, f.CTime = st.Size, st.Mtim.Nano(), st.Ctim.Nano()
	}
}

// unlinkedFile records a mapped file whose name is gone or leads to another one.
func (id *identifier) unlinkedFile(
	f *model.MappedFile, asked model.MappedFile, link, object string, st *unix.Stat_t,
) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		id.blockers = append(id.blockers,
			fault.New(fault.Mapping, object, "it maps %s, which is no regular file and has lost its name", f.Path))
		return nil
	}
	setFacts(f, st)
	if st.Nlink > 0 {
		if name, ok := fdtable.FindLink(id.view, f.Path, st.Dev, st.Ino); ok {
			f.Path = name
			id.known[asked] = *f
			return nil
		}
	}
	key := inode{st.Dev, st.Ino}
	if id.unlinked[key] == 0 {
		id.st.Unlinked = append(id.st.Unlinked, model.UnlinkedFile{
			Path: f.Path, Dev: st.Dev, Ino: st.Ino, Size: st.Size, Mode: st.Mode, UID: st.Uid, GID: st.Gid,
		})
		id.unlinked[key] = len(id.st.Unlinked)
		var fs unix.Statfs_t
		id.linked[len(id.st.Unlinked)] = st.Nlink > 0
		id.lower[len(id.st.Unlinked)] = id.view.Statfs(link, &fs) == nil && fdtable.LostOnOverlay(fs.Type, uint64(st.Nlink))
	}
	f.Unlinked = id.unlinked[key]
	id.known[asked] = *f
	return openInto(&id.contents.unlinked, f.Unlinked-1, link, object)
}

// executable completes the executable of a process.
func (id *identifier) executable(p *model.Process) error {
	link, object := fmt.Sprintf("/proc/%d/exe", p.Pid), "executable of "+pidName(p.Pid)
	var named unix.Stat_t
	if !strings.HasPrefix(p.Exe.Path, "/memfd:") || id.view.Stat(p.Exe.Path, &named) == nil {
		return id.file(&p.Exe, link, object)
	}
	shmem, err := id.shmem(&p.Exe, link, object)
	p.Exe.Shmem = shmem
	return err
}

// shmem records a shared memory object that is mapped or executed, and returns its 1-based index.
func (id *identifier) shmem(f *model.MappedFile, link, object string) (int, error) {
	var st unix.Stat_t
	key := inode{f.Dev, f.Ino}
	if id.shmems[key] == 0 {
		if err := id.view.Stat(link, &st); err != nil {
			return 0, id.unreadable(object, f.Path, err)
		}
		key = inode{st.Dev, st.Ino}
	}
	if id.shmems[key] == 0 {
		s := model.Shmem{Kind: "anon", Dev: st.Dev, Ino: st.Ino, Size: st.Size, Mode: st.Mode, UID: st.Uid, GID: st.Gid}
		if name, ok := strings.CutPrefix(f.Path, "/memfd:"); ok {
			// sources have taken the kernel's " (deleted)" off; the name may end like that
			s.Kind, s.Name = "memfd", name
		}
		id.st.Shmems = append(id.st.Shmems, s)
		id.shmems[key] = len(id.st.Shmems)
		i := len(id.st.Shmems) - 1
		if err := openInto(&id.contents.shmems, i, link, object); err != nil {
			return 0, err
		}
		if s.Kind == "memfd" {
			seals, err := unix.FcntlInt(id.contents.shmems[i].Fd(), unix.F_GET_SEALS, 0)
			if err != nil {
				return 0, fault.New(fault.MappedRead, object, "read its seals: %w", err)
			}
			id.st.Shmems[i].Seals = uint32(seals)
		}
	}
	n := id.shmems[key]
	return n, openInto(&id.contents.shmems, n-1, link, object)
}

// openRest opens the objects that are open but not mapped, through a descriptor of the tree.
func (id *identifier) openRest() error {
	for _, p := range id.st.Processes {
		for _, fd := range p.FDs {
			f := id.fileOf(fd)
			if f == nil || f.Shmem == 0 && f.Unlinked == 0 {
				continue
			}
			link := fmt.Sprintf("/proc/%d/fd/%d", p.Pid, fd.Num)
			object := fmt.Sprintf("fd %d of pid %d", fd.Num, p.Pid)
			if f.Shmem != 0 {
				if err := openInto(&id.contents.shmems, f.Shmem-1, link, object); err != nil {
					return err
				}
			}
			if f.Unlinked != 0 {
				if err := openInto(&id.contents.unlinked, f.Unlinked-1, link, object); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// fileOf finds the description of a descriptor. Sources number descriptions in order, so it is nearly always at its
// place.
func (id *identifier) fileOf(fd model.FD) *model.File {
	if i := fd.File - 1; i >= 0 && i < len(id.st.Files) && id.st.Files[i].ID == fd.File {
		return &id.st.Files[i]
	}
	for i := range id.st.Files {
		if id.st.Files[i].ID == fd.File {
			return &id.st.Files[i]
		}
	}
	return nil
}

func (id *identifier) unreadable(object, path string, err error) error {
	return fault.New(fault.MappedRead, object, "%s: %w", path, err)
}

// openInto opens link for reading as element i of list, unless it is open already. A link of /proc opens the file
// itself, whatever became of its name, as a description of its own.
func openInto(list *[]*os.File, i int, link, object string) error {
	for len(*list) <= i {
		*list = append(*list, nil)
	}
	if (*list)[i] != nil {
		return nil
	}
	f, err := os.OpenFile(link, os.O_RDONLY|unix.O_NOATIME, 0)
	if err != nil {
		return fault.New(fault.MappedRead, object, "%w", err)
	}
	(*list)[i] = f
	return nil
}

// changing tells whether the tree itself can write to an unlinked file: then its content must be copied while the
// tree stands still.
func changing(st *model.State, unlinkedFile int) bool {
	for i := range st.Files {
		if f := &st.Files[i]; f.Unlinked == unlinkedFile && f.Flags&unix.O_ACCMODE != unix.O_RDONLY {
			return true
		}
	}
	for i := range st.Processes {
		for j := range st.Processes[i].VMAs {
			if v := &st.Processes[i].VMAs[j]; v.File.Unlinked == unlinkedFile && v.Shared &&
				(v.Prot&unix.PROT_WRITE != 0 || v.Has("mw")) {
				return true
			}
		}
	}
	return false
}

// dirBlockers lists working and root directories that their name no longer leads to: restore enters them by name. A
// working directory that was removed is recorded, to be made again.
func dirBlockers(v *view.View, st *model.State) fault.List {
	var list fault.List
	for i := range st.Processes {
		p := &st.Processes[i]
		if p.Zombie {
			continue
		}
		for _, d := range []struct{ link, path, what string }{{"cwd", p.Cwd, "working"}, {"root", p.Root, "root"}} {
			var real, named unix.Stat_t
			if err := v.Stat(fmt.Sprintf("/proc/%d/%s", p.Pid, d.link), &real); err != nil {
				continue // it has ended: nothing to enter
			}
			if err := v.Stat(d.path, &named); err == nil && named.Dev == real.Dev && named.Ino == real.Ino {
				continue
			}
			if d.link == "cwd" && real.Nlink == 0 && p.Root == "/" {
				p.Cwd = strings.TrimSuffix(p.Cwd, procfs.Deleted)
				p.CwdGone = &model.GoneDir{Dev: real.Dev, Ino: real.Ino, Mode: real.Mode, UID: real.Uid, GID: real.Gid}
				continue
			}
			list = append(list, fault.New(fault.ProcessState, pidName(p.Pid),
				"its %s directory %s was removed, or its name leads elsewhere now", d.what, d.path).
				WithRemedy("start the program in a directory that stays"))
		}
	}
	return list
}
