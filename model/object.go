package model

import (
	"fmt"
	"slices"
)

// ObjectID is the kernel's identity of what descriptors and mappings lead to: it is the same however many share it.
type ObjectID struct {
	Kind ObjectKind
	Dev  uint64 // of an inode, as stat(2) gives it
	Num  uint64 // of an inode its number; of a description File.ID, since the kernel numbers none
}

// ObjectKind says what an ObjectID identifies.
type ObjectKind string

// The kinds of objects.
const (
	ObjectInode       ObjectKind = "inode"       // files, directories, pipes, memfds, shared memory
	ObjectDescription ObjectKind = "description" // of kinds that are nothing else: FDKind.Instance
)

// Object returns what a description leads to.
func (f *File) Object() ObjectID {
	if k := FDKindOf(f.Kind); k != nil && k.Instance {
		return ObjectID{Kind: ObjectDescription, Num: uint64(f.ID)}
	}
	return Inode(f.Dev, f.Ino)
}

// Inode returns the identity of an inode.
func Inode(dev, ino uint64) ObjectID { return ObjectID{ObjectInode, dev, ino} }

// Object is something of a tree of which it matters who else has it.
type Object struct {
	ID    ObjectID
	Links []string // what /proc/PID/fd/N reads where it is open; the last part of a path counts
	// Mapped says that others may have it as a mapping too.
	Mapped bool
	// Content says that the image holds its content, so that it would be two if somebody else has it.
	Content bool
	Writes  bool   // the tree can change the content
	What    string // who of the tree has it, for people
	Pid, FD int    // a descriptor of the tree that leads to it, of a description
}

// Holder is a process outside of a tree that has an object.
type Holder struct {
	Pid   int
	Write bool   // it can change the object
	Ours  bool   // it is this command: what it has open of files that it saves or writes to says nothing
	How   string // "fd 3" or "mapping 7f0000-7f1000"
	Comm  string
}

// Text names the holder for people.
func (h *Holder) Text() string { return fmt.Sprintf("%s of pid %d (%s)", h.How, h.Pid, h.Comm) }

// Holders is who outside of a tree has what of it.
type Holders map[ObjectID][]Holder

// Others are the holders of an object but for this command.
func (h Holders) Others(id ObjectID) []Holder {
	return slices.DeleteFunc(slices.Clone(h[id]), func(h Holder) bool { return h.Ours })
}

// The bits of File.Flags that tell the access mode, and O_APPEND (include/uapi/asm-generic/fcntl.h).
const (
	accessMode = 3
	readOnly   = 0
	writeOnly  = 1
	appends    = 0o2000
)

// Shareable lists the objects of a tree of which it matters who else has them, each once: what the image holds the
// content of, what is nothing but a description, and what their kinds say (FDKind.Shareable).
func (st *State) Shareable() []Object {
	l := lister{at: map[ObjectID]int{}}
	first := map[int]FD{} // lowest descriptor of each description
	pids := map[int]int{}
	for i := range st.Processes {
		p := &st.Processes[i]
		for _, fd := range p.FDs {
			if had, ok := first[fd.File]; !ok || fd.Num < had.Num {
				first[fd.File], pids[fd.File] = fd, p.Pid
			}
		}
		for j := range p.VMAs {
			v := &p.VMAs[j]
			if v.Kind == VMAShmem || v.Kind == VMAFile && v.File.Unlinked != 0 {
				l.add(Inode(v.File.Dev, v.File.Ino), v.File.Path, Object{
					Mapped: true, Content: true, Writes: v.Shared && (v.Prot&2 != 0 || v.Has("mw")),
					What: fmt.Sprintf("mapping %x-%x of pid %d", v.Start, v.End, p.Pid),
				})
			}
		}
	}
	for i := range st.Files {
		f := &st.Files[i]
		if fd, ok := first[f.ID]; ok {
			l.file(f, pids[f.ID], fd.Num)
		}
	}
	for i := range st.Named {
		g := &st.Named[i]
		l.add(Inode(g.Dev, g.Ino), g.Path, Object{Mapped: true})
	}
	const sealWrite = 8 // F_SEAL_WRITE, include/uapi/linux/fcntl.h
	for i := range st.Shmems {
		// What is sealed is what it is, for everybody.
		if at, ok := l.at[Inode(st.Shmems[i].Dev, st.Shmems[i].Ino)]; ok && st.Shmems[i].Seals&sealWrite != 0 {
			l.list[at].Content = false
		}
	}
	return l.list
}

// lister is a list of objects, each once.
type lister struct {
	list []Object
	at   map[ObjectID]int
}

// file adds what a description leads to, if that matters. num is the lowest descriptor of it.
func (l *lister) file(f *File, pid, num int) {
	writes := f.Flags&accessMode != readOnly
	id := f.Object()
	o := Object{Pid: pid, FD: num, Writes: writes, What: "open file " + f.Path}
	switch {
	case f.Std == 0 && (f.Shmem != 0 || f.Unlinked != 0):
		o.Mapped, o.Content = true, true
	case id.Kind == ObjectDescription, f.Shareable(num):
	default:
		return
	}
	l.add(id, f.Path, o)
}

func (l *lister) add(id ObjectID, link string, o Object) {
	at, ok := l.at[id]
	if !ok {
		at = len(l.list)
		l.at[id] = at
		o.ID, o.Links = id, []string{link}
		l.list = append(l.list, o)
		return
	}
	had := &l.list[at]
	had.Mapped, had.Content, had.Writes = had.Mapped || o.Mapped, had.Content || o.Content, had.Writes || o.Writes
	if !slices.Contains(had.Links, link) {
		had.Links = append(had.Links, link)
	}
}
