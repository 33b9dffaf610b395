package snapshot

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/holders"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
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
	id.st.Named = append(id.st.Named, model.UnlinkedFile{
		Path: v.File.Path, Dev: st.Dev, Ino: st.Ino, Size: st.Size, Mode: st.Mode, UID: st.Uid, GID: st.Gid,
	})
	return nil
}

// holdersOf finds out who outside has what of a tree.
func holdersOf(ctx context.Context, st *model.State, own holders.Own) (model.Holders, error) {
	held, err := holders.Of(st.Tree(), own).Holders(ctx, st.Shareable())
	if err != nil {
		return nil, fmt.Errorf("look who else has what the tree has: %w", err)
	}
	return held, nil
}

// sharedOutside lists the memory that the tree of a snapshot shares with somebody outside; named memory that somebody
// else has as well is taken out of the image. The tree runs.
func (s *session) sharedOutside(held model.Holders) (fault.List, error) {
	blockers := plan.Shared(s.st, held)
	kept := s.st.Named[:0]
	for i := range s.st.Named {
		g := s.st.Named[i]
		by := held.Others(model.Inode(g.Dev, g.Ino))
		if len(by) == 0 {
			kept = append(kept, g)
			continue
		}
		s.res.note("%s is memory that %s, outside the tree, has too: its content is not saved, and stays as it is then",
			g.Path, by[0].Text())
		if err := s.memory.leaveOut(g.Space, g.Size); err != nil {
			return nil, err
		}
	}
	s.st.Named = kept
	return blockers, nil
}
