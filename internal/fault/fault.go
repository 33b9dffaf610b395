// Package fault holds the one error type users see and the table of its codes. A fault says what happened to which
// object, why, and what the user can do; its class is the exit code of the command line. Libraries return *Error
// (wrapped or not); only package main turns one into an exit code. snapshot, restore and image re-export the type under
// their own names.
package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Class groups codes by what the caller can conclude. Its value is the process exit code.
type Class int

// The classes, which are the exit codes of the command line contract.
const (
	Failed      Class = 1   // the operation failed; nothing was harmed
	KernelLacks Class = 3   // this kernel, or our rights on it, lack something
	Unsupported Class = 4   // the state of the process cannot be saved; it is untouched
	BadImage    Class = 5   // the image is damaged, or of an unknown version
	RolledBack  Class = 6   // the restore failed; nothing of it is left
	Usage       Class = 64  // the command line is wrong
	Interrupted Class = 130 // the user interrupted
)

// Code names one kind of fault, for example "E_NO_SUCH_PID". Codes are an API: they never change meaning.
type Code string

// Entry documents a code; `bpfckpt explain CODE` and docs/errors.md print it.
type Entry struct {
	Code   Code
	Class  Class
	Title  string // one line, lower case
	Cause  string // what leads here, full sentences
	Remedy string // what the user can do, full sentences
}

// Error is a fault that happened.
type Error struct {
	Code   Code
	Object string // what it is about: "pid 12", "fd 7 of pid 12", "mapping 7f00-7f10 of pid 12", "image 3f2a", a path
	Cause  string // why, this time
	Remedy string // what to do, this time; empty means the table's
	Err    error  // underlying error, may be nil
}

// New returns a fault about object. The cause is formatted; an error among args that %w names is wrapped.
func New(code Code, object, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Object: object, Cause: err.Error(), Err: errors.Unwrap(err)}
}

// WithRemedy sets the remedy of this occurrence and returns e.
func (e *Error) WithRemedy(format string, args ...any) *Error {
	e.Remedy = fmt.Sprintf(format, args...)
	return e
}

// Error returns one line: code, object, cause, remedy.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Code))
	if e.Object != "" {
		b.WriteString(": " + e.Object)
	}
	if e.Cause != "" {
		b.WriteString(": " + e.Cause)
	}
	if r := e.Advice(); r != "" {
		b.WriteString("; " + r)
	}
	return strings.ReplaceAll(b.String(), "\n", " ")
}

// Unwrap returns the underlying error.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is a fault with the same code, so that errors.Is(err, &Error{Code: X}) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Advice returns the remedy of this occurrence, or the table's.
func (e *Error) Advice() string {
	if e.Remedy != "" {
		return e.Remedy
	}
	if entry, ok := Lookup(e.Code); ok {
		return entry.Remedy
	}
	return ""
}

// Class returns the class of the code, Failed for one that is not in the table.
func (e *Error) Class() Class {
	if entry, ok := Lookup(e.Code); ok {
		return entry.Class
	}
	return Failed
}

// List is several faults at once, for example everything that keeps a process from being saved.
type List []*Error

// Error joins the faults, one line each.
func (l List) Error() string {
	lines := make([]string, len(l))
	for i, e := range l {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// maxObjects is how many objects a line of Lines names.
const maxObjects = 6

// Lines returns the faults for people, grouped: those with one code, cause and remedy are one line, which names their
// objects.
func (l List) Lines() []string {
	type group struct {
		code          Code
		cause, remedy string
	}
	objects := map[group][]string{}
	var order []group
	for _, e := range l {
		g := group{e.Code, e.Cause, e.Advice()}
		if objects[g] == nil {
			order = append(order, g)
		}
		objects[g] = append(objects[g], e.Object)
	}
	lines := make([]string, len(order))
	for i, g := range order {
		names := objects[g]
		text := strings.Join(names[:min(len(names), maxObjects)], ", ")
		if more := len(names) - maxObjects; more > 0 {
			text = fmt.Sprintf("%s and %d more", text, more)
		}
		e := Error{Code: g.code, Object: text, Cause: g.cause, Remedy: g.remedy}
		lines[i] = e.Error()
	}
	return lines
}

// Unwrap returns the faults, for errors.Is and errors.As.
func (l List) Unwrap() []error {
	errs := make([]error, len(l))
	for i, e := range l {
		errs[i] = e
	}
	return errs
}

// OrNil returns l as an error, nil if it is empty.
func (l List) OrNil() error {
	if len(l) == 0 {
		return nil
	}
	return l
}

// Of finds the faults in an error that is not nil, at least one: a fault.List or *Error that it wraps, Interrupt if its
// context was canceled, else Internal.
func Of(err error) List {
	if errors.Is(err, context.Canceled) { // only our own signal handling cancels
		return List{New(Interrupt, "bpfckpt", "a signal told it to stop")}
	}
	var list List
	if errors.As(err, &list) && len(list) > 0 {
		return list
	}
	var one *Error
	if errors.As(err, &one) {
		return List{one}
	}
	return List{New(Internal, "", "%w", err)}
}

// Lookup returns the entry of a code.
func Lookup(code Code) (Entry, bool) {
	i, ok := slices.BinarySearchFunc(table, code,
		func(e Entry, c Code) int { return strings.Compare(string(e.Code), string(c)) })
	if !ok {
		return Entry{}, false
	}
	return table[i], true
}

// All returns every entry, sorted by code.
func All() []Entry { return slices.Clone(table) }

// table is all codes, sorted. Each area keeps its own list in a file of its own.
var table = sorted(slices.Concat(
	benchCodes,
	cliCodes,
	dirtyCodes,
	fdCodes,
	imageCodes,
	procCodes,
	restoreCodes,
	snapshotCodes,
	targetCodes,
	tracerCodes,
	watchCodes,
))

func sorted(entries []Entry) []Entry {
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(string(a.Code), string(b.Code)) })
	return entries
}
