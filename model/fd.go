package model

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
)

// FDKind is what is known of one kind of open file description (File.Kind): capture, validation, plan, image, restore
// and documentation read it here. Each kind is in a file of its own, fd_NAME.go, which registers it; how it is captured
// and opened again is in fdtable/NAME.go.
type FDKind struct {
	Name string // a to z, at most 13
	Rank int    // its place in the documentation
	// New makes an empty payload, what descriptions of this kind have beside what all have; nil if they have none. An
	// image has it as a record of its own.
	New    func() Payload
	Fields []string // the fields of File that only some kinds have and this one may have, by their Go names
	ByName bool     // it is opened again by File.Path
	// Roams says that the file may have got another name since: package fdtable looks for it, the plan does not.
	Roams bool
	// NoFollow says that a symbolic link at the end of the name is not followed.
	NoFollow bool
	// Instance says that what is behind the descriptor has no other name, so that sharing it means sharing the
	// description.
	Instance bool
	// Shareable tells whether it matters who outside the tree has what a description leads to, if that is not an
	// UnlinkedFile, a Shmem or an Instance. num is the lowest descriptor that the tree has of it. nil if it never does.
	Shareable func(f *File, num int) bool
	// Changed says why what is found under the name is not what the description is to be opened on again, beyond being
	// of another type; "" if it is. nil if the type tells all.
	Changed func(f *File, have Found) string
	// Becomes says for people what a restore, with --detach or not, makes of a description; "" or nil for what its kind
	// says.
	Becomes func(st *State, f *File, detach bool) string
	Rows    []FDRow // of docs/descriptors.md
}

// FDRow is a line of docs/descriptors.md.
type FDRow struct {
	What     string // the kind, or a state of it
	Saved    string // what of it is in the image; "refused" if it cannot be saved
	Restored string // what it becomes
}

// Payload is what the descriptions of one kind have beside what all have: a pointer to a struct, whose fields are
// stored. One that leads to other parts of the state implements Referrer too.
type Payload interface {
	// Check says what is wrong with it, taken by itself; nil if nothing.
	Check() error
}

// Referrer is a payload that leads to other parts of the state.
type Referrer interface {
	Refers() Refs
}

// Refs is what a description leads to. A state in which that is not there is invalid.
type Refs struct {
	Files []int // by File.ID, others than itself
	Pids  []int // of processes of the tree, zombies too: a restore opens the description when they are there
}

// Refers returns what a description leads to.
func (f *File) Refers() Refs {
	if r, ok := f.Of.(Referrer); ok {
		return r.Refers()
	}
	return Refs{}
}

// Shareable is what its kind says: FDKind.Shareable.
func (f *File) Shareable(num int) bool {
	k := FDKindOf(f.Kind)
	return k != nil && k.Shareable != nil && k.Shareable(f, num)
}

// NeedsProcesses tells whether a description can be opened again only when the processes are there.
func (f *File) NeedsProcesses() bool { return len(f.Refers().Pids) > 0 }

// Found is what a name leads to, in the terms of stat(2).
type Found struct {
	Mode           uint32
	Dev, Ino, Rdev uint64
}

// The types of files in Found.Mode and File.Mode (include/uapi/linux/stat.h).
const (
	typeMask = 0o170000
	typeFIFO = 0o010000
	typeChar = 0o020000
	typeDir  = 0o040000
)

// fdKinds has all kinds that an image can hold.
var fdKinds = map[string]*FDKind{}

// registerFD adds a kind. It is called while the package is initialised.
func registerFD(k FDKind) *FDKind {
	if fdKinds[k.Name] != nil {
		panic("model: two kinds of descriptors have the name " + k.Name)
	}
	fdKinds[k.Name] = &k
	return &k
}

// FDKinds returns all kinds that an image can hold, in the order of the documentation.
func FDKinds() []*FDKind {
	return slices.SortedFunc(maps.Values(fdKinds), func(a, b *FDKind) int {
		return cmp.Or(cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.Name, b.Name))
	})
}

// FDKindOf looks a kind up by its name, nil if there is none.
func FDKindOf(name string) *FDKind { return fdKinds[name] }

// NamedAgain reports whether a description is opened again by the very name that it has.
func (f *File) NamedAgain() bool {
	k := FDKindOf(f.Kind)
	return k != nil && k.ByName && !k.Roams && f.Std == 0 && f.Unlinked == 0 && f.Removed == nil
}

// checkFDKind checks that a description is of a known kind and has only what the kind has.
func checkFDKind(f *File) error {
	k := FDKindOf(f.Kind)
	if k == nil {
		return fmt.Errorf("its kind %q is unknown", f.Kind)
	}
	v := reflect.ValueOf(f).Elem()
	for _, i := range foreignFields()[k.Name] {
		if !v.Field(i).IsZero() {
			return fmt.Errorf("it is a %s and has the field %s, which belongs to others", f.Kind, v.Type().Field(i).Name)
		}
	}
	switch {
	case k.New == nil && f.Of == nil:
		return nil
	case k.New == nil || f.Of == nil || reflect.TypeOf(f.Of) != reflect.TypeOf(k.New()):
		return fmt.Errorf("it is a %s, and what it has (%T) is not what one has", f.Kind, f.Of)
	}
	return f.Of.Check()
}

// foreignFields has, by kind, the indices of the fields of File that other kinds have and it has not.
var foreignFields = sync.OnceValue(func() map[string][]int {
	file := reflect.TypeFor[File]()
	foreign := map[string][]int{}
	for i := range file.NumField() {
		has := func(k *FDKind) bool { return slices.Contains(k.Fields, file.Field(i).Name) }
		if !slices.ContainsFunc(FDKinds(), has) {
			continue // all have it
		}
		for _, k := range FDKinds() {
			if !has(k) {
				foreign[k.Name] = append(foreign[k.Name], i)
			}
		}
	}
	return foreign
})
