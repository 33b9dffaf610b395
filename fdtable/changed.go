package fdtable

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/policy"
)

// A writtenFile is a regular file that the tree itself has open for writing or mapped so. What the tree wrote to it
// after the snapshot it will write again, with a memory that is older than the file.
type writtenFile struct {
	known Known
	// all that write to it append, or write only and stood at its end: nothing that was in it was changed
	output  bool
	appends bool   // a descriptor adds to it: it is of class policy.Appended
	others  bool   // somebody outside had it open for writing at the snapshot
	asked   bool   // left says whether it is
	left    string // why it is left as it has grown, "" if it is not: it may be somebody else's too
	cut     bool   // Commit cuts it back to what it was
	kept    bool   // it has grown, and it was told why that is left
}

// writtenFiles lists the files that the tree itself can change and that are found by name.
func (b *builder) writtenFiles() map[fileKey]*writtenFile {
	all := map[fileKey]*writtenFile{}
	get := func(k Known) *writtenFile {
		key := fileKey{k.Dev, k.Ino}
		if all[key] == nil {
			all[key] = &writtenFile{known: k, output: true}
		}
		return all[key]
	}
	for i := range b.st.Files {
		f := &b.st.Files[i]
		if f.Kind != kindRegular || f.Unlinked != 0 || !writable(f) || b.attached(f) != nil || f.Std != 0 && !b.byName(f) {
			continue
		}
		w := get(knownFile(f))
		if f.Flags&unix.O_APPEND == 0 && (f.Flags&unix.O_ACCMODE != unix.O_WRONLY || f.Pos != f.Size) {
			w.output = false
		}
		w.others = w.others || f.Others
		w.appends = w.appends || f.Flags&unix.O_APPEND != 0
	}
	for i := range b.st.Processes {
		for j := range b.st.Processes[i].VMAs {
			if v := &b.st.Processes[i].VMAs[j]; WritesFile(v) {
				get(KnownMapped(&v.File)).output = false
			}
		}
	}
	return all
}

// WritesFile tells whether a mapping can change a file that has a name.
func WritesFile(v *model.VMA) bool {
	writable := v.Prot&unix.PROT_WRITE != 0 || slices.Contains(v.Flags, "mw")
	return v.Kind == model.VMAFile && v.File.Unlinked == 0 && v.Shared && writable
}

// ask finds out, once, whether the file is left as it has grown: if somebody outside writes to it too, or the policy
// says so.
func (w *writtenFile) ask(b *builder, now Known) error {
	if w.asked {
		return nil
	}
	w.asked = true
	if w.appends && b.o.Policy.Of(policy.Appended) == policy.Note {
		w.left = "the policy says so"
		return nil
	}
	who, err := writerOutside(b.ctx, b.o.View, now)
	if err != nil {
		return fault.New(fault.FDRebuild, now.Path, "look who else has it open: %w", err)
	}
	switch {
	case who != "":
		w.left = who + " has it open for writing"
	case w.others:
		w.left = "at the snapshot somebody outside had it open for writing too"
	}
	return nil
}

// tellChanges compares the files that the tree writes to with what they were at the snapshot. What has merely grown
// behind the end that the tree writes on from, will be written over.
func (b *builder) tellChanges() error {
	byPath := func(a, c *writtenFile) int { return cmp.Compare(a.known.Path, c.known.Path) }
	told := false
	for _, w := range slices.SortedFunc(maps.Values(b.written), byPath) {
		now, err := w.known.Find(b.o.View)
		if err != nil {
			continue // whoever opens it tells
		}
		how, touched := w.known.changed(now)
		switch {
		case w.cut && w.output, how == "" && !touched, w.kept && w.output && b.o.Policy.Of(policy.Appended) == policy.Note:
		case b.o.Policy.Of(policy.Files) == policy.Verify && how != "":
			return fault.New(fault.FileChanged, now.Path, "the program writes to it, and it was changed since: %s",
				how).
				WithRemedy("put the file back as it was at the snapshot (cp -p), restore a later image, " +
					"or take it as it is with --files note")
		case w.kept, how != "" && w.output && now.Size > w.known.Size:
		case touched:
			b.note("%s was touched after the snapshot: it has its size and time of then, but its inode was changed %s",
				now.Path, stamp(now.CTime))
			told = true
		default:
			b.note("%s was changed after the snapshot: %s", now.Path, how)
			told = true
		}
	}
	if told {
		b.note("the program goes on with what was changed as it is now; if its memory and a file must agree, end it, " +
			"put the file back as it was at the snapshot (cp -p), and restore again; --files verify refuses what was changed")
	}
	return nil
}

// note keeps a line for the user.
func (b *builder) note(format string, args ...any) {
	b.table.notes = append(b.table.notes, fmt.Sprintf(format, args...))
}
