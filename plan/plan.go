// Package plan decides. Build is a pure function of a state, what is known of the host and what the user wants; it says
// what stands in the way of bringing the state back, what the user should know, and the steps that bring it back.
// `check` and `snap` ask it before anything is held, snap once more about the image as a reader decodes it, before it
// is published and before anything is killed; `restore` asks it before it makes anything. So what snap accepts, restore
// can do: on the same host, with the same facts, it comes back.
//
// The package knows numbers of the kernel's interfaces, but calls none: it runs on any system, without rights. Package
// internal/host reads the facts.
package plan

import (
	"fmt"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/policy"
)

// Side says who asks.
type Side int

// The sides. They differ in what is compared with the host.
const (
	// Check has a running tree: what only a stopped one tells is not there yet, and is not missed.
	Check Side = iota
	// Snap has the state of this moment. Files are what they were a moment ago: only whether they can be had again by
	// name is of interest.
	Snap
	// Restore has an image of earlier. Files may have changed since, ids may be taken.
	Restore
)

// Options is what the user wants.
type Options struct {
	Side   Side
	Policy policy.Policy // what becomes of what the image does not hold
	Lazy   bool          // memory comes after the processes run
	Kill   bool          // of Snap and Check: the tree is killed when it is saved
	Same   SamePages     // of Restore: which pages processes are to share again; nil for none
}

// Plan is the answer.
type Plan struct {
	// Refusals is everything that stands in the way, each with its object and a remedy. Those of the state itself have
	// codes of class fault.Unsupported; those of the host as it is now have codes of class fault.RolledBack, for Snap
	// and Check fault.NotRestorable.
	Refusals fault.List
	Notes    []string // what the user should know, one line each
	// Steps, Births and Boot are what a restore does. They are empty if anything stands in the way, and for Check.
	Steps  []Step
	Births *Births        // who makes whom
	Forked *Heritage      // the memory they are born with
	Boot   map[int]uint64 // by pid: where the boot area goes, BootSize bytes and VDSORoom behind them
}

// Build makes the plan. host may be nil: then the state alone is judged.
func Build(st *model.State, host *Host, o Options) *Plan {
	b := &builder{st: st, host: host, o: o}
	b.refusals = stateRefusals(st)
	if o.Side == Restore {
		for i, e := range b.refusals {
			b.refusals[i] = fault.New(fault.RestoreState, e.Object, "%s (%s)", e.Cause, e.Code).
				WithRemedy("%s", e.Advice())
		}
	}
	b.refusedByPolicy()
	p := &Plan{}
	if host != nil {
		p.Births, p.Boot = b.births(), rooms(st)
		b.hostRefusals()
	}
	if o.Side != Restore {
		b.notes = append(append(b.notes, cpuClockNotes(st)...), threadChildNotes(st)...)
	}
	p.Refusals, p.Notes = Distinct(b.refusals), b.notes
	if len(p.Refusals) > 0 || o.Side == Check || host == nil {
		p.Births, p.Boot = nil, nil
		return p
	}
	p.Forked = MakeHeritage(p.Births, o.Same)
	p.Steps = b.steps(p.Births)
	return p
}

// builder is one Build under way.
type builder struct {
	st       *model.State
	host     *Host
	o        Options
	refusals fault.List
	notes    []string
}

// refuse adds a refusal that lies in the host as it is now.
func (b *builder) refuse(e *fault.Error) {
	if e == nil {
		return
	}
	if b.o.Side != Restore {
		e = fault.New(fault.NotRestorable, e.Object, "%s (%s)", e.Cause, e.Code).WithRemedy("%s", e.Advice())
	}
	b.refusals = append(b.refusals, e)
}

// note tells the user something.
func (b *builder) note(format string, args ...any) {
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
}

// Distinct drops repetitions: some things are seen by more than one observer, who say so in the same words. The result
// is never nil.
func Distinct(list fault.List) fault.List {
	type words struct {
		code          fault.Code
		object, cause string
	}
	seen := map[words]bool{}
	out := fault.List{}
	for _, e := range list {
		w := words{e.Code, e.Object, e.Cause}
		if !seen[w] {
			seen[w] = true
			out = append(out, e)
		}
	}
	return out
}
