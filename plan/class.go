package plan

import (
	"fmt"
	"maps"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/policy"
)

// appendMode is O_APPEND (asm-generic/fcntl.h).
const appendMode = 0o2000

// Outside is an open file description of a state that depends on something outside of the image.
type Outside struct {
	Class  policy.Class
	File   int    // model.File.ID
	Object string // "fd 1 of pid 12"
	Path   string
}

// OutsideOf lists what of a state's descriptions depends on something outside, in the order of the state. What is of a
// class that can only be refused is in no image.
func OutsideOf(st *model.State) []Outside {
	var list []Outside
	holders := firstHolders(st)
	for i := range st.Files {
		f := &st.Files[i]
		if c, ok := classOf(st, f); ok {
			h := holders[f.ID]
			list = append(list, Outside{c, f.ID, fmt.Sprintf("fd %d of pid %d", h.fd, h.pid), f.Path})
		}
	}
	return list
}

// classOf returns the class of a description, false if the image holds it, or its name is all there is of it.
func classOf(st *model.State, f *model.File) (policy.Class, bool) {
	switch {
	case f.Std != 0:
		return policy.Std, true
	case f.Kind == "tty":
		return policy.Terminal, true
	case f.Kind != "regular" || f.Unlinked != 0 || isNamed(st, f.Dev, f.Ino):
		return "", false
	case f.Flags&accessMode == readOnly:
		return policy.Read, true
	case f.Flags&appendMode != 0:
		return policy.Appended, true
	}
	return policy.Files, true
}

// isNamed tells whether a file is memory by a name, whose content the image has.
func isNamed(st *model.State, dev, ino uint64) bool {
	return slices.ContainsFunc(st.Named, func(g model.UnlinkedFile) bool { return g.Dev == dev && g.Ino == ino })
}

// refusedByPolicy refuses what the policy does not want to be brought back otherwise. By default nothing in an image is
// refused.
func (b *builder) refusedByPolicy() {
	if !slices.Contains(slices.Collect(maps.Values(b.o.Policy)), policy.Refuse) {
		return
	}
	for _, o := range OutsideOf(b.st) {
		if b.o.Policy.Of(o.Class) == policy.Refuse {
			b.refuse(fault.New(fault.Policy, o.Object, "%s is of class %s, which the policy refuses", o.Path, o.Class))
		}
	}
}
