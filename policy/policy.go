// Package policy is the table of what becomes of what an image does not hold: streams that lead outside, terminals,
// files that go on being written, devices. Each class of such things has the actions that are possible, and a default; a
// Policy is what the user chose instead. check, snap and restore decide by it, inspect and docs/policy.md print the
// table.
//
// The package is data: it looks at nothing.
package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Class is a sort of thing that an image does not hold.
type Class string

// The classes.
const (
	Std      Class = "std"      // a standard stream that leads outside
	Terminal Class = "terminal" // the terminal of the tree, but for standard streams
	Files    Class = "files"    // a file that the tree writes to
	Appended Class = "appended" // a file that the tree adds to with O_APPEND
	Read     Class = "read"     // a file that the tree only reads
	Pipe     Class = "pipe"     // a pipe or FIFO with an end outside, but for standard streams
	Socket   Class = "socket"   // but for standard streams
	Shared   Class = "shared"   // what has no name, and a process outside has too
	Device   Class = "device"   // with a state of its own; a terminal that is not the tree's
)

// Action is what becomes of a thing.
type Action string

// The actions.
const (
	Refuse   Action = "refuse"   // the tree is not saved, or not brought back
	Reattach Action = "reattach" // the restore command's own takes its place
	Null     Action = "null"     // /dev/null takes its place
	Verify   Action = "verify"   // it must be as it was at the snapshot
	Note     Action = "note"     // it is taken as it is now, and the user is told
	Rollback Action = "rollback" // it is put back to what it was at the snapshot

	// Those that no class has yet.
	Reconnect Action = "reconnect" // the other end is looked for again
	Reset     Action = "reset"     // the program is told that the other end has gone
	Embed     Action = "embed"     // its content goes into the image
	Ignore    Action = "ignore"    // it is taken as it is now, and nobody is told
)

// Row is a line of the table.
type Row struct {
	Class Class
	What  string   // what belongs to it, as a sentence goes on after the class's name
	Can   []Option // the first is the default
	Later []Action // those that are meant to come
}

// Option is one action of a class.
type Option struct {
	Action Action
	Does   string // what happens, for the documentation
	Flag   string // the flag that stands for it, "" for none but --policy
}

// rows is the table, in the order of the documentation.
var rows = []Row{
	{
		Class: Std,
		What: "a standard stream (descriptor 0, 1 or 2) that leads outside: a terminal, a socket, a pipe or FIFO that " +
			"somebody outside has open too, a file that somebody outside writes to",
		Can: []Option{
			{Reattach, "the restore command's own stream of that number takes its place", ""},
			{Null, "`/dev/null` takes its place; a file is opened by its name", "--detach"},
			{Refuse, "`check`, `snap` and `restore` refuse it", ""},
		},
		Later: []Action{Reconnect},
	},
	{
		Class: Terminal, What: "the terminal that the tree runs on, on other descriptors",
		Can: []Option{
			{Reattach, "the terminal of the restore command takes its place", ""},
			{Null, "`/dev/null` takes its place, and no session gets a controlling terminal", "--detach"},
			{Refuse, "`check`, `snap` and `restore` refuse it", ""},
		},
	},
	{
		Class: Files,
		What: "a file that the tree writes to, with a descriptor or a shared mapping, and that was changed after the " +
			"snapshot",
		Can: []Option{
			{Note, "it is taken as it is now; what was changed is told. It must not have become shorter", "--files note"},
			{Verify, "`restore` refuses a file that was changed, unless it has only grown and is cut back", "--files verify"},
		},
		Later: []Action{Rollback, Embed, Ignore},
	},
	{
		Class: Appended, What: "a file that the tree has open with `O_APPEND`, and that has grown after the snapshot",
		Can: []Option{
			{
				Rollback, "it is cut back; what is cut off is kept in `tails/` of the store. It is left, and that is told, " +
					"if somebody outside writes to it too", "",
			},
			{Note, "it is left as it has grown, and that is told", ""},
			{Verify, "`restore` refuses it", ""},
		},
		Later: []Action{Embed, Ignore},
	},
	{
		Class: Read, What: "a file that the tree only reads or maps",
		Can:   []Option{{Verify, "`restore` refuses it if it was changed", ""}},
		Later: []Action{Embed, Ignore},
	},
	{
		Class: Pipe, What: "a pipe or FIFO that somebody outside has open too, on other descriptors",
		Can:   []Option{{Refuse, "`check` and `snap` refuse it", ""}},
		Later: []Action{Null, Reconnect},
	},
	{
		Class: Socket, What: "a socket, on other descriptors",
		Can:   []Option{{Refuse, "`check` and `snap` refuse it", ""}},
		Later: []Action{Null, Reconnect, Reset},
	},
	{
		Class: Shared,
		What: "an eventfd, an epoll instance or another that nothing but descriptors leads to, and that a process outside " +
			"has too; memory or a file without a name that one has, if either can write to it",
		Can: []Option{{Refuse, "`check` and `snap` refuse it", ""}},
	},
	{
		Class: Device,
		What:  "a device with a state of its own; a terminal that the tree does not run on; the controlling side of one",
		Can:   []Option{{Refuse, "`check` and `snap` refuse it", ""}},
		Later: []Action{Null, Reattach},
	},
}

// Table returns the table, in the order of the documentation.
func Table() []Row { return slices.Clone(rows) }

// Actions lists what is possible, the default first.
func (r *Row) Actions() []Action {
	list := make([]Action, len(r.Can))
	for i, o := range r.Can {
		list[i] = o.Action
	}
	return list
}

// RowOf looks a class up.
func RowOf(c Class) (*Row, bool) {
	i := slices.IndexFunc(rows, func(r Row) bool { return r.Class == c })
	if i < 0 {
		return nil, false
	}
	r := rows[i]
	return &r, true
}

// Policy is what is to become of the classes, where it is not the default. nil is the default for all.
type Policy map[Class]Action

// Of is what becomes of a class.
func (p Policy) Of(c Class) Action {
	if a, ok := p[c]; ok {
		return a
	}
	r, ok := RowOf(c)
	if !ok {
		return Refuse
	}
	return r.Can[0].Action
}

// Valid returns fault.BadOption for a class that there is not, or an action that it cannot have.
func (p Policy) Valid() error {
	for _, c := range slices.Sorted(maps.Keys(p)) {
		if err := (Choice{c, p[c], string(c) + "=" + string(p[c])}).valid(); err != nil {
			return err
		}
	}
	return nil
}

// Choice is what somebody has chosen for one class.
type Choice struct {
	Class  Class
	Action Action
	By     string // where it was said: a flag, a line of a file
}

// valid returns fault.BadOption unless the class can have the action.
func (c Choice) valid() error {
	r, ok := RowOf(c.Class)
	if !ok {
		var names []string
		for _, r := range rows {
			names = append(names, string(r.Class))
		}
		return fault.New(fault.BadOption, c.By, "there is no class %q; the classes are %s", c.Class,
			strings.Join(names, ", "))
	}
	can := join(r.Actions())
	switch {
	case slices.Contains(r.Actions(), c.Action):
		return nil
	case slices.Contains(r.Later, c.Action):
		return fault.New(fault.BadOption, c.By, "this version does not know yet how to %s what is of class %s",
			c.Action, c.Class).
			WithRemedy("what it knows for that: %s", can)
	}
	return fault.New(fault.BadOption, c.By, "%q is nothing that can become of class %s", c.Action, c.Class).
		WithRemedy("what can: %s", can)
}

func join(list []Action) string {
	var b strings.Builder
	for i, a := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(a))
	}
	return b.String()
}

// Shorthand returns what a flag chooses, as Option.Flag has it.
func Shorthand(flag string) (list []Choice) {
	for _, r := range rows {
		for _, o := range r.Can {
			if o.Flag == flag {
				list = append(list, Choice{r.Class, o.Action, flag})
			}
		}
	}
	return list
}

// Make makes a policy of choices. The error is fault.BadOption, also if two contradict each other.
func Make(choices ...Choice) (Policy, error) {
	p, by := Policy{}, map[Class]string{}
	for _, c := range choices {
		if err := c.valid(); err != nil {
			return nil, err
		}
		if had, ok := p[c.Class]; ok && had != c.Action {
			return nil, fault.New(fault.BadOption, c.By, "it says %s for class %s, and %s says %s", c.Action, c.Class,
				by[c.Class], had).WithRemedy("say one of them")
		}
		p[c.Class], by[c.Class] = c.Action, c.By
	}
	return p, nil
}

// With returns the policy with what a flag chooses. The error is fault.BadOption if that contradicts the policy.
func (p Policy) With(flag string) (Policy, error) {
	var choices []Choice
	for _, c := range slices.Sorted(maps.Keys(p)) {
		choices = append(choices, Choice{c, p[c], "the policy"})
	}
	return Make(append(choices, Shorthand(flag)...)...)
}
