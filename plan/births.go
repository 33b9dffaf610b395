package plan

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// This file decides how a tree of processes comes to be: who makes whom, in which order. A process is born into the
// session of the one that makes it, and there is no way into a session that exists (setsid(2)). So whoever makes it
// must be in its session, and need not be its parent: the parent of its own may have gone. Here too somebody in between
// goes: the helper that makes it ends, and the kernel hands it to the nearest ancestor that is a subreaper
// (PR_SET_CHILD_SUBREAPER), which is its parent of the image for that moment. A session or a group whose leader has
// ended is led by a helper with that id, which ends when everything stands.

// TheStub is who makes the root, in place of an index of Births.Kin.
const TheStub = -1

// Kin is one process that is made.
type Kin struct {
	Pid    int            // the id it needs, 0 for a helper that may have any
	Rec    *model.Process // nil for a helper
	by     int            // who makes it, an index into Births.Kin; TheStub
	before bool           // it is made before that one makes its session
}

// BirthStep is one step of making a tree. All act on processes of Births.Kin.
type BirthStep struct {
	Do     BirthAct
	Who    int // index into Births.Kin
	By     int // fork, adopt, end: the maker of Who
	Parent int // adopt: whose child Who's child becomes
	Group  int // join: the process group, 0 for that of the stub
}

// BirthAct is what a BirthStep does.
type BirthAct int

// What is done.
const (
	ActFork    BirthAct = iota // By makes Who
	ActSession                 // Who makes a session
	ActAdopt                   // Who, a helper, ends; its child becomes that of Parent; By waits for Who
	ActLead                    // Who makes a process group
	ActJoin                    // Who joins Group
	ActEnd                     // Who, a helper, ends; By waits for it
	ActFill                    // Who maps and fills memory that it shares with those it is going to make
)

// Births is how the processes of an image come to be.
type Births struct {
	Kin   []Kin
	Steps []BirthStep
}

// IDs are those of helpers that need one: of sessions and groups without a leader.
func (b *Births) IDs() []int {
	var list []int
	for _, k := range b.Kin {
		if k.Rec == nil && k.Pid != 0 {
			list = append(list, k.Pid)
		}
	}
	return list
}

// outsideSession stands for the session that whoever starts the restore is in. Sessions that processes outside the tree
// are in, or were when it was saved, are it.
const outsideSession = 0

// family is births being planned. All lists are by index into Kin.
type family struct {
	Births
	st         *model.State
	leaderless map[int]bool
	index      map[int]int // pid -> index, helpers that lead a session too
	session    []int       // the session it ends up in: its id, or outsideSession
	born       []int       // the session it was born into
	placed     []int       // who has a maker, in that order
	isPlaced   []bool
	strangers  map[int][]int // session -> members whose parent is not in it
	tries      int
}

// MakeBirths finds an order in which every process of a state can be made with its parent, session and process group.
// The processes must be in an order in which parents come first, the root before all.
func MakeBirths(st *model.State) (*Births, error) {
	f := &family{st: st, leaderless: map[int]bool{}, index: map[int]int{}, strangers: map[int][]int{}}
	for _, id := range st.Leaderless {
		f.leaderless[id] = true
	}
	for i := range st.Processes {
		f.add(Kin{Pid: st.Processes[i].Pid, Rec: &st.Processes[i]})
		f.index[st.Processes[i].Pid] = i
	}
	for i := range st.Processes {
		f.session[i] = f.sessionOf(&st.Processes[i])
	}
	for i := range st.Processes {
		if id := f.session[i]; id != outsideSession && !f.has(id) {
			f.index[id] = f.add(Kin{Pid: id})
			f.session[f.index[id]] = id
		}
		if i > 0 && !f.leads(i) && f.session[i] != f.session[f.parent(i)] {
			f.strangers[f.session[i]] = append(f.strangers[f.session[i]], i)
		}
	}
	if err := f.place(); err != nil {
		return nil, err
	}
	if err := f.sendHome(); err != nil {
		return nil, err
	}
	groups, err := f.groups()
	if err != nil {
		return nil, err
	}
	f.order(groups)
	return &f.Births, nil
}

// births plans the tree, and refuses one that no order of births makes.
func (b *builder) births() *Births {
	births, err := MakeBirths(b.st)
	if f := (*fault.Error)(nil); errors.As(err, &f) {
		b.refuse(f)
	}
	return births
}

func (f *family) add(k Kin) int {
	f.Kin = append(f.Kin, k)
	f.session, f.born, f.isPlaced = append(f.session, 0), append(f.born, 0), append(f.isPlaced, false)
	return len(f.Kin) - 1
}

func (f *family) has(pid int) bool { _, ok := f.index[pid]; return ok }

// parent is the parent of a process of the image that is not the root.
func (f *family) parent(i int) int { return f.index[f.Kin[i].Rec.PPid] }

// leads reports whether a process or helper leads its session.
func (f *family) leads(i int) bool {
	return f.session[i] != outsideSession && f.session[i] == f.Kin[i].Pid
}

func (f *family) sessionOf(rec *model.Process) int {
	if i, ok := f.index[rec.Sid]; ok && f.Kin[i].Rec.Sid == rec.Sid || f.leaderless[rec.Sid] {
		return rec.Sid
	}
	return outsideSession
}

// sendHome puts a helper between every process and a maker that is not its parent.
func (f *family) sendHome() error {
	const sigchld = 17
	for i := range f.st.Processes {
		if i == 0 || f.Kin[i].by == f.parent(i) {
			continue
		}
		if rec := f.Kin[i].Rec; rec.ExitSignal != sigchld {
			return fault.New(fault.RestoreState, fmt.Sprintf("pid %d", rec.Pid),
				"it would send its parent signal %d at its end, and is in session %d, which its parent %d is not in: no kernel call makes that again", rec.ExitSignal, rec.Sid, rec.PPid)
		}
		helper := f.add(Kin{by: f.Kin[i].by, before: f.Kin[i].before})
		f.Kin[i].by, f.Kin[i].before = helper, false
	}
	return nil
}

// order lists the steps: everybody is made by their makers, moves home when all below stands, then come the groups, and
// the helpers end.
func (f *family) order(groups []BirthStep) {
	children := make([][]int, len(f.Kin))
	first := 0
	for i, k := range f.Kin {
		if k.by == TheStub {
			first = i
			continue
		}
		children[k.by] = append(children[k.by], i)
	}
	f.make(first, children)
	f.Steps = append(f.Steps, groups...)
	for _, s := range slices.Backward(f.Steps) {
		if k := f.Kin[s.Who]; s.Do == ActFork && k.Rec == nil && !f.moves(s.Who, children) {
			f.Steps = append(f.Steps, BirthStep{Do: ActEnd, Who: s.Who, By: k.by})
		}
	}
}

// moves reports whether a helper is there to hand on a child, and ends with that.
func (f *family) moves(i int, children [][]int) bool {
	return f.Kin[i].Rec == nil && f.Kin[i].Pid == 0 && len(children[i]) > 0
}

func (f *family) make(i int, children [][]int) {
	f.Steps = append(f.Steps, BirthStep{Do: ActFork, Who: i, By: f.Kin[i].by})
	for _, c := range children[i] {
		if f.Kin[c].before {
			f.make(c, children)
		}
	}
	if f.leads(i) {
		f.Steps = append(f.Steps, BirthStep{Do: ActSession, Who: i})
	}
	for _, c := range children[i] {
		if !f.Kin[c].before {
			f.make(c, children)
		}
	}
	if f.moves(i, children) {
		f.Steps = append(f.Steps, BirthStep{Do: ActAdopt, Who: i, By: f.Kin[i].by, Parent: f.parent(children[i][0])})
	}
}

// groups lists the steps that put everybody into their process groups. Before them all are in the group that came with
// the session. A group of the tree is made by the process with its id, or by a helper if that has ended; a helper keeps
// it while a maker of its own moves to another.
func (f *family) groups() ([]BirthStep, error) {
	makers := map[int]int{}
	var leads, keeps, joins, last []BirthStep
	for i := range f.st.Processes {
		rec := f.Kin[i].Rec
		if f.comesWithSession(i) {
			continue
		}
		if _, made := makers[rec.Pgid]; !made {
			m, ok := f.index[rec.Pgid]
			switch {
			case !ok:
				m = f.add(Kin{Pid: rec.Pgid, by: i})
			case f.leads(m) || f.session[m] != f.session[i]:
				return nil, fault.New(fault.RestoreState, fmt.Sprintf("pid %d", rec.Pid),
					"it is in process group %d, and process %d is in another session", rec.Pgid, rec.Pgid)
			case f.Kin[m].Rec.Pgid != rec.Pgid:
				keeps = append(keeps, BirthStep{Do: ActJoin, Who: f.add(Kin{by: m}), Group: rec.Pgid})
			}
			makers[rec.Pgid] = m
			leads = append(leads, BirthStep{Do: ActLead, Who: m})
		}
	}
	for i := range f.st.Processes {
		rec := f.Kin[i].Rec
		step := BirthStep{Do: ActJoin, Who: i, Group: rec.Pgid}
		m, led := makers[rec.Pid]
		leads := led && m == i
		switch {
		case f.comesWithSession(i) && leads:
			step.Group = f.session[i]
			last = append(last, step)
		case f.comesWithSession(i), leads && rec.Pgid == rec.Pid:
		case leads:
			last = append(last, step)
		default:
			joins = append(joins, step)
		}
	}
	return slices.Concat(leads, keeps, joins, last), nil
}

// comesWithSession reports whether a process is in the group that whoever is born into its session is in: the leader's,
// or, for the session of whoever starts the restore, the group of that one, in whose place it is for every group of
// processes outside the tree. A root goes into the group that it is restored from even if its own has no leader any
// more: that is where a terminal's signals go.
func (f *family) comesWithSession(i int) bool {
	rec := f.Kin[i].Rec
	if f.session[i] != outsideSession {
		return rec.Pgid == f.session[i]
	}
	return rec.Pgid == 0 || !f.has(rec.Pgid) && (!f.leaderless[rec.Pgid] || rec.Pgid == f.Kin[0].Rec.Pgid)
}

// Sibling reports whether a process is made as the child of its maker's parent (CLONE_PARENT): the root and a helper
// that makes it. The stub ends, and whoever restores is to see the end of the root.
func (b *Births) Sibling(i int) bool {
	by := b.Kin[i].by
	return by == TheStub || by >= 0 && i == 0
}
