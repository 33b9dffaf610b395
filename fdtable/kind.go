package fdtable

import (
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// A kind captures and rebuilds one sort of description. The file that has its name registers it.
type kind struct {
	name string // as in model.FDKinds
	// links are what /proc/PID/fd/N reads for it, of an object that has neither a name nor the type of a file.
	links []string
	// is tells whether a description is of this kind, by what the source tells of it. What one kind takes, no other may.
	// nil for kinds with links, and for those of files and devices that no other takes (classify).
	is     func(d *desc) bool
	flags  uint32 // status flags that only this kind has
	silent bool   // nothing is known that its driver could tell in fdinfo: whatever it does is refused
	// capture completes d.File; an error keeps the tree from being saved.
	capture func(c *capturer, d *desc) error
	open    func(b *builder, f *model.File) (fd int, err error) // opens it again in this process
	// steps are what process pid has to do itself, once all descriptors are in place; nil for nothing.
	steps func(t *Table, f *model.File, pid int) []Step
}

// What is registered; it does not change after the package is initialised. A description of no kind is refused.
var (
	kinds  = map[string]*kind{} // by name
	byLink = map[string]*kind{}
	asked  []*kind // those that look at a description themselves
)

// register adds a kind. It is called while the package is initialised.
func register(k kind) *kind {
	if kinds[k.name] != nil {
		panic("fdtable: two kinds of descriptors have the name " + k.name)
	}
	kinds[k.name] = &k
	for _, link := range k.links {
		byLink[link] = &k
	}
	if k.is != nil {
		asked = append(asked, &k)
	}
	return &k
}

// identified returns the name of the kind that knows a description for one of its own, "" if none does.
func (d *desc) identified() string {
	if k := byLink[d.Path]; k != nil {
		return k.name
	}
	for _, k := range asked {
		if k.is(d) {
			return k.name
		}
	}
	return ""
}

// hasType tells whether a description has the type of file typ (unix.S_IF...).
func (d *desc) hasType(typ uint32) bool { return d.Mode&unix.S_IFMT == typ }

// classify names the kind of a description; it returns a fault for those of which none can be saved.
func (c *capturer) classify(d *desc) (string, error) {
	if d.Flags&unix.O_PATH != 0 {
		return kindPath, nil
	}
	if name := d.identified(); name != "" {
		return name, nil
	}
	switch d.Mode & unix.S_IFMT {
	case 0:
		return "", refuseAnon(d)
	case unix.S_IFDIR:
		return c.classifyOnDisk(d, kindDir)
	case unix.S_IFREG:
		return c.classifyOnDisk(d, kindRegular)
	case unix.S_IFCHR:
		return classifyChar(d)
	case unix.S_IFBLK:
		return "", refuseBlock(d)
	}
	return "", d.refuse(fault.FDKind, "its file mode %#o is of no known type", d.Mode)
}
