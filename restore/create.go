package restore

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// birth does step i of the making of the tree.
func (t *tree) birth(i int) (err error) {
	s := t.births.Steps[i]
	switch p := t.process(s.Who); s.Do {
	case plan.ActFork:
		t.made[s.Who], err = t.create(t.process(s.By), s.Who)
	case plan.ActSession:
		_, err = p.call("setsid", unix.SYS_SETSID)
	case plan.ActAdopt:
		err = t.adopt(p, t.process(s.By), t.process(s.Parent))
	case plan.ActLead:
		_, err = p.call("setpgid", unix.SYS_SETPGID, 0, 0)
	case plan.ActJoin:
		_, err = p.call("setpgid", unix.SYS_SETPGID, 0, uint64(t.groupID(s.Group)))
	case plan.ActEnd:
		err = t.endHelper(p, t.process(s.By))
	case plan.ActFill:
		err = t.bequests.fill(p)
	}
	return err
}

// groupID is the id of a group as processes of the tree see it; 0 stands for that of the stub.
func (t *tree) groupID(group int) int {
	if group != 0 {
		return group
	}
	pgid, err := unix.Getpgid(t.stub.pid)
	if err != nil {
		return 0
	}
	return pgid
}

// create makes process or helper i of the plan with clone3(2) in by.
func (t *tree) create(by *process, i int) (*process, error) {
	k := &t.births.Kin[i]
	if k.Pid == 0 {
		return t.createAny(by, i)
	}
	rec := k.Rec
	if rec == nil {
		rec = &model.Process{Pid: k.Pid}
	}
	var flags uint64
	exitSignal := uint64(rec.ExitSignal)
	if t.births.Sibling(i) && !t.stub.pidNS { // the init of a namespace must be the parent of the root
		flags, exitSignal = unix.CLONE_PARENT, 0 // clone3 refuses one: it is the stub's, SIGCHLD
	}
	if t.births.Sibling(i) && by != t.stub.process {
		flags, exitSignal = unix.CLONE_PARENT, 0
	}
	p, err := t.clone(by, i, rec, flags, exitSignal)
	if err != nil {
		return nil, err
	}
	if k.Rec == nil {
		t.helpers = append(t.helpers, p)
		return p, nil
	}
	t.procs[i] = p
	t.byPid[rec.Pid] = p
	return p, nil
}

// createAny makes helper i of the plan, which may have any id but those that the image needs. One that gets such an id
// all the same is held until another has another.
func (t *tree) createAny(by *process, i int) (*process, error) {
	want := wantedIDs(t.births, t.st)
	var spare []*process
	for {
		p, err := t.clone(by, i, &model.Process{}, 0, 0)
		if err != nil {
			return nil, err
		}
		t.helpers = append(t.helpers, p)
		if !want[p.rec.Pid] {
			for _, s := range spare {
				if err := t.endHelper(s, by); err != nil {
					return nil, err
				}
			}
			return p, nil
		}
		spare = append(spare, p)
	}
}

// clone makes process or helper i of the plan in by, for rec, with the id that rec names; if that is 0 it is filled in.
func (t *tree) clone(by *process, i int, rec *model.Process, flags, exitSignal uint64) (*process, error) {
	at := stackOf(by)
	setTid := at + 128
	if rec.Pid == 0 {
		setTid = 0
	}
	args := cloneArgs(flags, exitSignal, setTid)
	binary.LittleEndian.PutUint32(args[128:], uint32(rec.Pid))
	if err := by.lead.Poke(at, args); err != nil {
		return nil, err
	}
	if err := t.j.step(fmt.Sprintf("create pid %d", rec.Pid)); err != nil {
		return nil, err
	}
	id, err := by.lead.CallNew(by.insn(), unix.SYS_CLONE3, at, cloneArgsSize)
	if err != nil {
		return nil, createFault(rec.Pid, err)
	}
	lead, err := t.tr.Adopt(id, id)
	if err != nil {
		return nil, err
	}
	p := &process{j: t.j, tr: t.tr, rec: rec, pid: id, kin: i, lead: lead}
	if rec.Pid == 0 {
		own, err := p.call("ask for its id", unix.SYS_GETPID)
		if err != nil {
			t.helpers = append(t.helpers, p)
			return nil, err
		}
		rec.Pid = int(own)
	}
	return p, nil
}

// adopt ends a helper and gives its child to another parent, which is a subreaper for that moment.
func (t *tree) adopt(helper, by, parent *process) error {
	_, err := parent.call("become a subreaper", unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	if err != nil {
		return err
	}
	if err := t.endHelper(helper, by); err != nil {
		return err
	}
	_, err = parent.call("be no subreaper", unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	return err
}

// endHelper ends a helper; its maker waits for it. It has no exit signal, so nothing else tells of its end.
func (t *tree) endHelper(helper, by *process) error {
	if err := t.j.step("end a helper"); err != nil {
		return err
	}
	regs, err := helper.lead.Regs()
	if err != nil {
		return err
	}
	regs.SetCall(helper.insn(), unix.SYS_EXIT_GROUP, 0)
	if err := helper.lead.SetRegs(&regs); err != nil {
		return err
	}
	if err := helper.lead.Release(); err != nil {
		return err
	}
	if by == t.stub.process && !t.stub.pidNS {
		reap(helper.pid) // it is our child, made with CLONE_PARENT
	} else if _, err = by.call("wait for a helper", unix.SYS_WAIT4, uint64(helper.rec.Pid), 0, unix.WALL,
		0); err != nil {
		return err
	}
	t.helpers = slices.DeleteFunc(t.helpers, func(p *process) bool { return p == helper })
	return nil
}
