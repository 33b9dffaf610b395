package fdtable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/host"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
	"github.com/bpfckpt/bpfckpt/policy"
)

// RebuildOptions says what a rebuilt description that leads outside the tree is attached to.
type RebuildOptions struct {
	View   *view.View    // in which names lead to files
	Std    [3]*os.File   // the restore command's standard streams; nil means closed
	Given  [3]*Given     // what the standard streams were that the program was started with; nil if that is not known
	Policy policy.Policy // what becomes of what the image does not hold
	// State is what to rebuild instead of the image's own, which it is a changed copy of; nil for that.
	State *model.State
	// Moment returns what a clock, as this process reads it, showed at the freeze, in ns; nil for what the image has of
	// the clocks themselves. It is asked by Commit.
	Moment func(clock int) int64
	// Shmem returns the file of State.Shmems[i], made with NewShmem, filled and sealed with Seal. The caller keeps and
	// closes it.
	Shmem func(i int) (*os.File, error)
	// Unlinked returns the file of State.Unlinked[i], made with NewUnlinked; its content may still be missing. The
	// caller keeps and closes it.
	Unlinked func(i int) (*os.File, error)
	// Temp returns the very description that NewUnlinked made for State.Unlinked[i], for those whose Flags are not 0. The
	// caller closes it.
	Temp func(i int) (*os.File, error)
	// Pid returns what we call a process of the image, which is there; nil if that is its pid.
	Pid func(pid int) int
}

// Table is the rebuilt descriptions, open in this process until Close.
type Table struct {
	st      *model.State
	dir     string         // the store, beside which tails are saved
	id      string         // of the image
	fds     map[int]int    // model.File.ID -> our descriptor
	std     map[stdKey]int // standard streams that do not get fds[ID]
	extra   []int          // descriptors we need only while building
	terms   []termUse
	grown   []growth
	refills []refilling
	notes   []string       // for the user, one line each
	late    []func() error // what Commit does last
}

// Rebuilder opens descriptions again, one by one. It changes no file: what cannot be taken back is left to
// Table.Commit.
type Rebuilder struct{ b *builder }

// Begin gets ready to open the descriptions of an image. Whatever Open leaves open, Close of the table closes.
func Begin(ctx context.Context, r *image.Reader, o RebuildOptions) *Rebuilder {
	info := r.Info()
	if o.State == nil {
		o.State = r.State()
	}
	return begin(ctx, o.State, info.Dir, info.ID, o)
}

func begin(ctx context.Context, st *model.State, dir, id string, o RebuildOptions) *Rebuilder {
	t := &Table{st: st, dir: dir, id: id, fds: map[int]int{}, std: map[stdKey]int{}}
	b := &builder{
		ctx: ctx, st: st, o: o, table: t, streams: host.Streams(o.Std),
		pipes: map[int]*pipeEnds{}, temps: map[int]bool{}, made: map[int]bool{}, moved: map[fileKey]bool{},
		told:     map[uint64]bool{},
		nameless: map[fileKey]int{},
	}
	for i := range st.Files {
		if !st.Files[i].NeedsProcesses() {
			b.left++
		}
	}
	b.written = b.writtenFiles()
	return &Rebuilder{b}
}

// Table returns what has been opened so far.
func (r *Rebuilder) Table() *Table { return r.b.table }

// Open opens State.Files[i] again. The files are to be opened in order, those that lead to processes after all others.
// The last of the others brings with it what is to be said of all files together, or refuses what has changed.
func (r *Rebuilder) Open(i int) error {
	b, f := r.b, &r.b.st.Files[i]
	if err := b.ctx.Err(); err != nil {
		return err
	}
	if err := b.build(f); err != nil || f.NeedsProcesses() {
		return err
	}
	if b.left--; b.left > 0 {
		return nil
	}
	return b.tellChanges()
}

// Check looks at the regular files that are opened by name, without opening them for the tree: it returns what keeps
// one from being opened again, and what the user should know of all, one line each.
func (r *Rebuilder) Check() (refusals fault.List, notes []string) {
	b := r.b
	for i := range b.st.Files {
		f := &b.st.Files[i]
		if f.Kind != kindRegular || f.Unlinked != 0 || b.stream(f) != 0 || b.goesOn(f) != nil || isNamed(b.st, f) {
			continue
		}
		now, err := knownFile(f).Find(b.o.View)
		w := b.written[fileKey{f.Dev, f.Ino}]
		if err == nil {
			err = checkContent(f, now, w)
		}
		if err == nil {
			b.noteMove(f, now)
			_, err = b.growth(f, now, w)
		}
		if err != nil {
			refusals = append(refusals, asFault(err, fault.FDRebuild, fileObject(f)))
		}
	}
	if err := b.tellChanges(); err != nil {
		refusals = append(refusals, asFault(err, fault.FDRebuild, "files"))
	}
	return refusals, b.table.notes
}

// isNamed tells whether a file is memory by a name, whose content the restore brings back.
func isNamed(st *model.State, f *model.File) bool {
	return slices.ContainsFunc(st.Named, func(g model.UnlinkedFile) bool { return g.Dev == f.Dev && g.Ino == f.Ino })
}

// builder is the state of one Rebuilder.
type builder struct {
	ctx      context.Context
	st       *model.State
	o        RebuildOptions
	table    *Table
	pipes    map[int]*pipeEnds        // by 1-based index
	temps    map[int]bool             // Unlinked whose own description has been taken
	made     map[int]bool             // 1-based indices of Shmems of which that is so
	left     int                      // descriptions that do not lead to processes, not opened yet
	written  map[fileKey]*writtenFile // by what the image calls them
	moved    map[fileKey]bool         // files that were found under another name, and told of
	told     map[uint64]bool          // terminals, by Rdev, of which it was told that ours is of another kind
	nameless map[fileKey]int          // our descriptors of removed inodes that were made again
	streams  [3]*plan.Stream          // what o.Std leads to
}

func (b *builder) build(f *model.File) error {
	k := kinds[f.Kind]
	if k == nil {
		return fault.New(fault.FDRecord, fileObject(f), "a descriptor of the unknown kind %q", f.Kind)
	}
	if _, dup := b.table.fds[f.ID]; dup || f.ID <= 0 {
		return fault.New(fault.FDRecord, fileObject(f), "its id %d is taken or not positive", f.ID)
	}
	open := k.open
	if b.stream(f) != 0 {
		open = (*builder).openStd
	} else if std := b.goesOn(f); std != nil {
		open = func(b *builder, f *model.File) (int, error) { return b.attach(f, std) }
	}
	fd, err := open(b, f)
	if err != nil {
		return asFault(err, fault.FDRebuild, fileObject(f))
	}
	b.table.fds[f.ID] = fd
	if f.Std != 0 {
		return nil // it has no locks
	}
	return takeLocks(f, fd)
}

// fileObject names a description in messages.
func fileObject(f *model.File) string { return fmt.Sprintf("open file %d (%s)", f.ID, f.Path) }

// settable are the status flags F_SETFL sets, without O_ASYNC, which goes with an owner.
const settable = unix.O_APPEND | unix.O_NONBLOCK | unix.O_DIRECT | unix.O_NOATIME

// atOpen are the flags of f_flags that open(2) alone can set. O_TMPFILE is left out: the file is there already.
const atOpen = unix.O_ACCMODE | unix.O_DSYNC | unix.O_SYNC | unix.O_NOFOLLOW

// checkNamed holds what the name of f leads to now against the record: the plan has done so before, but names are not
// ours alone.
func (b *builder) checkNamed(f *model.File) error {
	var st unix.Stat_t
	if err := b.o.View.Lstat(f.Path, &st); err != nil {
		return fileGone(f, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK && f.Mode&unix.S_IFMT != unix.S_IFLNK && !model.FDKindOf(f.Kind).NoFollow {
		if err := b.o.View.Stat(f.Path, &st); err != nil {
			return fileGone(f, err)
		}
	}
	if err := plan.CheckNamed(f, host.File(&st)); err != nil {
		return err
	}
	return nil
}

// openNamed opens f by name and checks that it has got what it looked at: never a FIFO or device put there meanwhile.
func (b *builder) openNamed(f *model.File, typ uint32) (int, error) {
	flags := int(f.Flags&(atOpen|settable|unix.O_DIRECTORY)) | unix.O_CLOEXEC | unix.O_NOCTTY | unix.O_NONBLOCK
	if temporary(f) {
		flags &^= unix.O_DIRECTORY // linked into place since it was made
	}
	fd, err := b.o.View.Open(f.Path, flags)
	if err != nil {
		return -1, fileGone(f, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != typ {
		_ = unix.Close(fd)
		return -1, fault.New(fault.FileChanged, f.Path, "it was replaced while it was being opened")
	}
	return b.checkFlags(f, fd)
}

// reopen makes a new description of what our descriptor fd leads to.
func (b *builder) reopen(f *model.File, fd int) (int, error) {
	// The others are set afterwards: open(2) takes no O_DIRECT for a pipe, F_SETFL does.
	keep := uint32(atOpen &^ unix.O_NOFOLLOW)
	if f.Kind == kindDir {
		keep |= unix.O_DIRECTORY
	}
	flags := int(f.Flags&keep) | unix.O_CLOEXEC | unix.O_NOCTTY | unix.O_NONBLOCK
	anew, err := unix.Open(selfLink(fd), flags, 0)
	if err != nil {
		return -1, fault.New(fault.FDRebuild, fileObject(f), "open it again: %w", err)
	}
	return b.checkFlags(f, anew)
}

// unchecked are the bits in which a rebuilt description may differ: what open(2) adds by itself, what has no effect
// after it, and O_ASYNC, which the process sets when its owner exists (Steps).
const unchecked = largeFile | unix.O_CLOEXEC | unix.O_ASYNC

// checkFlags sets the status flags of fd and checks that it then has those of the record. It closes fd on error.
func (b *builder) checkFlags(f *model.File, fd int) (int, error) {
	want := f.Flags &^ unchecked
	ignore := uint32(unchecked)
	if f.Unlinked != 0 || f.Shmem != 0 || f.Removed != nil {
		ignore |= unix.O_NOFOLLOW // said how to find the file, which is found
	}
	if temporary(f) && f.Unlinked == 0 {
		ignore |= unix.O_TMPFILE // it has been given a name since
	}
	err := b.setFlags(f, fd)
	got := 0
	if err == nil {
		got, err = unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	}
	if err == nil && uint32(got)&^ignore != want&^ignore {
		err = fmt.Errorf("its status flags are %#o and should be %#o", got, f.Flags)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fault.New(fault.FDRebuild, fileObject(f), "%w", err)
	}
	return fd, nil
}

func (b *builder) setFlags(f *model.File, fd int) error {
	if f.Flags&unix.O_PATH != 0 {
		return nil
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, int(f.Flags&settable)); err != nil {
		return fmt.Errorf("set its status flags: %w", err)
	}
	return nil
}

// seek puts the position back. It closes fd on error.
func (b *builder) seek(f *model.File, fd int) (int, error) {
	if at, err := unix.Seek(fd, f.Pos, unix.SEEK_SET); err != nil || at != f.Pos {
		_ = unix.Close(fd)
		if err == nil {
			err = fmt.Errorf("it went to %d", at)
		}
		return -1, fault.New(fault.FDRebuild, fileObject(f), "set the position %d: %w", f.Pos, err)
	}
	return fd, nil
}

// fileGone is the fault for a name that does not open.
func fileGone(f *model.File, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return fault.New(fault.FileGone, f.Path, "%w", err)
	}
	return fault.New(fault.FDRebuild, f.Path, "open it: %w", err)
}

// FD returns our descriptor of model.File id, -1 if there is none. It stays the table's and is close-on-exec.
func (t *Table) FD(id int) int {
	if fd, ok := t.fds[id]; ok {
		return fd
	}
	return -1
}

// FDFor returns what to hand over for descriptor num that refers to model.File id: FD(id), except that of several
// standard streams that shared one terminal each becomes the restore command's own stream of that number.
func (t *Table) FDFor(id, num int) int {
	if fd, ok := t.std[stdKey{id, num}]; ok {
		return fd
	}
	return t.FD(id)
}

// Step is one system call to run inside a process after all its descriptors are in place and its credentials set.
type Step struct {
	Call   uint64        // number
	Args   []uint64      // without the last one if that is a pointer
	Data   []byte        // what the last argument points to; nil if it is none
	Ignore syscall.Errno // an error that is as good as success, 0 for none
	Want   string        // for messages: what the step restores
}

// Steps returns, in order, what process pid has to do itself: the kernel remembers which process took a lock, and the
// owner of a description (F_SETOWN) must exist, and an epoll instance remembers under which number it got what it
// watches. No descriptor of the process may be closed afterwards: that would release its locks.
func (t *Table) Steps(pid int) []Step {
	var steps []Step
	for i := range t.st.Files {
		f := &t.st.Files[i]
		if f.Owner != (model.FOwner{}) || f.Flags&unix.O_ASYNC != 0 {
			if holder, num := t.holder(f.ID, 0); holder == pid {
				steps = append(steps, ownerSteps(f, num)...)
			}
		}
		if k := kinds[f.Kind]; k != nil && k.steps != nil {
			steps = append(steps, k.steps(t, f, pid)...)
		}
		steps = append(steps, t.lockSteps(f, pid)...)
	}
	return steps
}

// holder returns a process, pid or else the first one, that has description id open, and the descriptor; -1 if there is
// none.
func (t *Table) holder(id, pid int) (int, int) {
	for i := range t.st.Processes {
		p := &t.st.Processes[i]
		if pid != 0 && p.Pid != pid {
			continue
		}
		if j := slices.IndexFunc(p.FDs, func(fd model.FD) bool { return fd.File == id }); j >= 0 {
			return p.Pid, p.FDs[j].Num
		}
	}
	return -1, -1
}

// Close closes all descriptors of the table. The processes must not run before: a pipe would never report its end.
func (t *Table) Close() {
	for _, fd := range t.fds {
		_ = unix.Close(fd)
	}
	for _, fd := range t.extra {
		_ = unix.Close(fd)
	}
	t.fds, t.std, t.extra, t.terms, t.grown = map[int]int{}, nil, nil, nil, nil
}
