package model

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
)

// FDKind is what is known of one kind of open file description (File.Kind): capture, validation, plan, restore and
// documentation read it here.
type FDKind struct {
	Name   string
	Fields []string // the fields of File that only some kinds have and this one may have, by their Go names
	ByName bool     // it is opened again by File.Path
	// Instance says that what is behind the descriptor has no other name, so that sharing it means sharing the
	// description.
	Instance bool
	Rows     []FDRow // of docs/descriptors.md
}

// FDRow is a line of docs/descriptors.md.
type FDRow struct {
	What     string // the kind, or a state of it
	Saved    string // what of it is in the image; "refused" if it cannot be saved
	Restored string // what it becomes
}

// fdFields are the fields of File that belong to some kinds only. All others every description has.
var fdFields = []string{
	"Size", "MTime", "CTime", "Born", "Tail", "Others", "Ghost", "Removed", "Shmem", "Pipe", "Term",
	"EventFD", "TimerFD", "SigMask", "Epoll", "Watches",
}

// fdKinds is all kinds that an image can hold, in the order of the documentation.
var fdKinds = []FDKind{
	{
		Name: "regular", Fields: []string{"Size", "MTime", "CTime", "Born", "Tail", "Others", "Ghost"}, ByName: true,
		Rows: []FDRow{
			{
				"regular file", "name, position, flags, size, times, when it was made",
				"the very file, under its name or one in the same directory that it has got since (a rotated log), or a copy of its size and time. " +
					"Open for reading: must not have changed. Open for writing: must not be shorter; what was changed is told, and refused with `--files verify`",
			},
			{
				"the same, opened with `O_APPEND`", "also a hash of what stands before its end",
				"cut back to the recorded size; what is cut off is kept in `tails/` of the store. Not cut if somebody outside the tree has it open for " +
					"writing, or had it at the snapshot: that is told",
			},
			{"the same on 1 or 2, and somebody outside writes to it too", "re-attached", "the restore command's stream; opened by name with `--detach`"},
			{
				"deleted or replaced file, `O_TMPFILE`", "its content. Refused if somebody outside has it open too, and either of the two can write",
				"a nameless file in the same directory, shared by all its descriptors. With owner, mode, extended attributes, times of last access and " +
					"of last change of content, but not of the inode",
			},
			{
				"file that no name leads to: with a hard link in another directory, its own name removed; outside of the root directory",
				"re-attached if it is open for writing, as 1 or 2; otherwise refused",
				"the restore command's stream, `/dev/null` with `--detach`",
			},
		},
	},
	{
		Name: "dir", Fields: []string{"Removed"}, ByName: true,
		Rows: []FDRow{
			{"directory", "name, position", "opened by name; half-read listings go on"},
			{"removed directory", "owner, mode", "a new one, whose name is removed"},
		},
	},
	{
		Name: "path", Fields: []string{"Ghost", "Removed"}, ByName: true,
		Rows: []FDRow{
			{"`O_PATH`", "name", "opened by name"},
			{
				"the same, of a file, directory, FIFO or symbolic link whose name was removed", "what the file is",
				"leads to what that is made again",
			},
		},
	},
	{Name: "chardev", ByName: true, Rows: []FDRow{{"`/dev/null`, `zero`, `full`, `random`, `urandom`", "name", "opened by name"}}},
	{
		Name: "pipe", Fields: []string{"Pipe"},
		Rows: []FDRow{
			{"pipe, both ends in the tree", "content, capacity, packets", "a new pipe"},
			{
				"pipe or FIFO with someone outside", "on 0, 1, 2: re-attached; else refused",
				"the restore command's stream",
			},
		},
	},
	{
		Name: "fifo", Fields: []string{"Pipe", "Removed"}, ByName: true,
		Rows: []FDRow{
			{
				"named FIFO, nobody outside has it open",
				"name, content. Refused with content while only ends for writing are open", "opened by name",
			},
			{"the same, its name removed", "content, owner, mode", "a new FIFO, whose name is removed"},
		},
	},
	{
		Name: "memfd", Fields: []string{"Size", "Shmem"},
		Rows: []FDRow{{"memfd", "content, name, size, seals, owner, mode, extended attributes, times. Refused if somebody outside has it open too, and either of the two can write", "a new memfd"}},
	},
	{
		Name: "tty", Fields: []string{"Term"},
		Rows: []FDRow{
			{
				"terminal", "modes, size",
				"on 0, 1, 2: the restore command's stream; else its controlling terminal, or a stream that is a terminal, as `/dev/tty` or by name as " +
					"before. With `--detach` `/dev/null`. One of another kind (a console, a pseudo-terminal) is told",
			},
			{"terminal that is neither a standard stream nor the controlling one; a serial line under another line discipline", "refused", ""},
			{"controlling side of a pseudo-terminal", "refused", ""},
		},
	},
	{
		Name: "socket",
		Rows: []FDRow{{"socket", "on 0, 1, 2: re-attached; else refused", "the restore command's stream"}},
	},
	{
		Name: "pseudo", ByName: true,
		Rows: []FDRow{
			{"`/proc` files of the whole system, sysfs and cgroup files open for reading, `/proc/sys`", "name, position", "opened by name"},
			{"`/proc/PID/…`, namespaces", "refused: they describe a process that will be another one", ""},
			{"files of tracefs, debugfs, bpf, hugetlbfs, mqueue, …", "refused", ""},
			{"other devices", "refused", ""},
		},
	},
	{
		Name: "eventfd", Fields: []string{"EventFD"}, Instance: true,
		Rows: []FDRow{{"eventfd", "count, semaphore (Linux 6.5 tells; before it is refused)", "a new eventfd"}},
	},
	{
		Name: "timerfd", Fields: []string{"TimerFD"}, Instance: true,
		Rows: []FDRow{{
			"timerfd", "clock, time left, interval, unread expirations",
			"a new timer with the time that was left; a date (`TFD_TIMER_ABSTIME`) stays that date of its clock",
		}},
	},
	{
		Name: "signalfd", Fields: []string{"SigMask"}, Instance: true,
		Rows: []FDRow{{"signalfd", "the signals it takes", "a new signalfd"}},
	},
	{
		Name: "epoll", Fields: []string{"Epoll"}, Instance: true,
		Rows: []FDRow{{
			"epoll", "what it watches, with events and data",
			"a new instance, filled from inside the process under the old numbers. What is ready then is told once more where it is told of " +
				"once (`EPOLLET`). Refused: entries whose descriptor was closed while its file " +
				"lives on, one-shot entries that have fired",
		}},
	},
	{
		Name: "inotify", Fields: []string{"Watches"}, Instance: true,
		Rows: []FDRow{{
			"inotify", "names and numbers of its watches",
			"a new instance. A new watch may get the number of one that was removed. Refused while it holds unread events, or if something watched was deleted",
		}},
	},
}

// FDKinds returns all kinds that an image can hold, in the order of the documentation.
func FDKinds() []FDKind { return slices.Clone(fdKinds) }

// FDKindOf looks a kind up by its name.
func FDKindOf(name string) (FDKind, bool) {
	for i := range fdKinds {
		if fdKinds[i].Name == name {
			return fdKinds[i], true
		}
	}
	return FDKind{}, false
}

// checkFDKind checks that a description is of a known kind and has only fields that the kind has.
func checkFDKind(f *File) error {
	k, ok := FDKindOf(f.Kind)
	if !ok {
		return fmt.Errorf("its kind %q is unknown", f.Kind)
	}
	v := reflect.ValueOf(f).Elem()
	for _, i := range foreignFields()[k.Name] {
		if !v.Field(i).IsZero() {
			return fmt.Errorf("it is a %s and has the field %s, which belongs to others", f.Kind, v.Type().Field(i).Name)
		}
	}
	return nil
}

// foreignFields has, by kind, the indices of the fields of File that other kinds have and it has not.
var foreignFields = sync.OnceValue(func() map[string][]int {
	file := reflect.TypeFor[File]()
	foreign := map[string][]int{}
	for i := range fdKinds {
		k := &fdKinds[i]
		for _, name := range fdFields {
			if f, ok := file.FieldByName(name); ok && !slices.Contains(k.Fields, name) {
				foreign[k.Name] = append(foreign[k.Name], f.Index[0])
			}
		}
	}
	return foreign
})
