package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/holders"
	"github.com/bpfckpt/bpfckpt/model"
)

// namedMemory records a file that a mapping can change if it is memory in all but name: one of tmpfs, as shm_open(3)
// and sem_open(3) make them. Its content belongs to the moment of the freeze as other memory does. A file under locks
// is left alone: it belongs together with others (a database with its log).
func (id *identifier) namedMemory(v *model.VMA, link, object string) error {
	key := inode{v.File.Dev, v.File.Ino}
	if !fdtable.WritesFile(v) || id.named[key] {
		return nil
	}
	id.named[key] = true
	var fs unix.Statfs_t
	if id.view.Statfs(v.File.Path, &fs) != nil || fs.Type != unix.TMPFS_MAGIC && fs.Type != unix.RAMFS_MAGIC {
		return nil
	}
	if slices.ContainsFunc(id.st.Files, func(f model.File) bool {
		return f.Dev == key.dev && f.Ino == key.ino &&
			len(f.Locks) > 0
	}) {
		return nil
	}
	if err := openInto(&id.contents.named, len(id.st.Named), link, object); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(id.contents.named[len(id.st.Named)].Fd()), &st); err != nil {
		return id.unreadable(object, v.File.Path, err)
	}
	id.st.Named = append(id.st.Named, model.Ghost{
		Path: v.File.Path, Dev: st.Dev, Ino: st.Ino, Size: st.Size, Mode: st.Mode, UID: st.Uid, GID: st.Gid,
	})
	return nil
}

// sharedObject is memory that others may have too.
type sharedObject struct {
	object, path string
	writes       bool // the tree can change it
}

// heldObjects lists what of the tree would be two things if somebody outside had it too: shared memory and files
// without a name, mapped or open.
func heldObjects(st *model.State) map[holders.File]*sharedObject {
	all := map[holders.File]*sharedObject{}
	get := func(dev, ino uint64, object, path string) *sharedObject {
		key := holders.File{Dev: dev, Ino: ino}
		if all[key] == nil {
			all[key] = &sharedObject{object: object, path: path}
		}
		return all[key]
	}
	for i := range st.Processes {
		p := &st.Processes[i]
		for j := range p.VMAs {
			v := &p.VMAs[j]
			if v.Kind == model.VMAShmem || v.Kind == model.VMAFile && v.File.Ghost != 0 {
				o := get(v.File.Dev, v.File.Ino, vmaName(p.Pid, v), v.File.Path)
				o.writes = o.writes || v.Shared && (v.Prot&unix.PROT_WRITE != 0 || v.Has("mw"))
			}
		}
	}
	for i := range st.Files {
		if f := &st.Files[i]; f.Std == 0 && (f.Shmem != 0 || f.Ghost != 0) {
			o := get(f.Dev, f.Ino, "open file "+f.Path, f.Path)
			o.writes = o.writes || f.Flags&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	for i := range st.Shmems {
		if s := &st.Shmems[i]; s.Seals&unix.F_SEAL_WRITE != 0 { // it is what it is, for everybody
			delete(all, holders.File{Dev: s.Dev, Ino: s.Ino})
		}
	}
	return all
}

// sharedBlockers lists the memory that the tree shares with somebody outside: each of the two would go on with one of
// its own.
func sharedBlockers(ctx context.Context, st *model.State, outside *holders.Outside) (fault.List, error) {
	objects := heldObjects(st)
	found, err := outsideHolders(ctx, outside, objects, nil)
	if err != nil {
		return nil, err
	}
	return toldOf(objects, found), nil
}

// sharedOutside is sharedBlockers for the tree of a snapshot; besides, named memory that somebody else has as well is
// taken out of the image. The tree runs.
func (s *session) sharedOutside(ctx context.Context, outside *holders.Outside) (fault.List, error) {
	objects := heldObjects(s.st)
	found, err := outsideHolders(ctx, outside, objects, s.st.Named)
	if err != nil {
		return nil, err
	}
	kept := s.st.Named[:0]
	for i := range s.st.Named {
		g := s.st.Named[i]
		by := found[holders.File{Dev: g.Dev, Ino: g.Ino}]
		if len(by) == 0 {
			kept = append(kept, g)
			continue
		}
		s.note("%s is memory that %s, outside the tree, has too: its content is not saved, and stays as it is then",
			g.Path, by[0].Text())
		if err := s.leaveOut(g.Space, g.Size); err != nil {
			return nil, err
		}
	}
	s.st.Named = kept
	return toldOf(objects, found), nil
}

// leaveOut takes a content out of the image again.
func (s *session) leaveOut(space model.Space, size int64) error {
	s.pages.jobs = slices.DeleteFunc(s.pages.jobs, func(j job) bool { return j.from.space == space })
	// what found no room in the arena is written
	return s.writer.Discard(space, 0, uint64(roundUp(int(size)))/model.PageSize)
}

// outsideHolders finds out who outside has shared or named memory.
func outsideHolders(ctx context.Context, outside *holders.Outside, objects map[holders.File]*sharedObject,
	named []model.Ghost,
) (map[holders.File][]holders.Holder, error) {
	files := map[holders.File]string{}
	for file, o := range objects {
		files[file] = o.path
	}
	for i := range named {
		files[holders.File{Dev: named[i].Dev, Ino: named[i].Ino}] = named[i].Path
	}
	if len(files) == 0 {
		return nil, nil
	}
	found, err := outside.Find(ctx, files)
	if err != nil {
		return nil, fmt.Errorf("look who else has memory of the tree: %w", err)
	}
	return found, nil
}

// toldOf makes blockers of what was found, in the order of the objects' names.
func toldOf(objects map[holders.File]*sharedObject, found map[holders.File][]holders.Holder) fault.List {
	var list fault.List
	for file, by := range found {
		o := objects[file]
		if o == nil {
			continue
		}
		i := slices.IndexFunc(by, func(h holders.Holder) bool { return h.Write || o.writes })
		if i < 0 {
			continue // nobody changes it
		}
		list = append(list, fault.New(fault.Mapping, o.object,
			"%s is shared with %s, outside the tree: it would become two", o.path, by[i].Text()).
			WithRemedy("save the process that started them both, or let one of them give it up"))
	}
	slices.SortFunc(list, func(a, b *fault.Error) int { return strings.Compare(a.Object, b.Object) })
	return list
}
